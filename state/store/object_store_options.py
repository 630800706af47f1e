"""How an S3 store is reached: endpoint, region, credentials; from options, else the environment, else a profile.

| what        | option                 | environment                                          | profile (AWS_PROFILE)  |
|-------------|------------------------|------------------------------------------------------|------------------------|
| credentials | s3.access-key,         | AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,            | aws_access_key_id, ... |
|             | s3.secret-key          | AWS_SESSION_TOKEN                                    |                        |
| endpoint    | s3.endpoint            | AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_ENDPOINT  | endpoint_url           |
| region      | s3.region              | AWS_REGION, AWS_DEFAULT_REGION                       | region                 |
| path style  | s3.path.style.access   |                                                      |                        |

Of each row the first place that says anything counts. A profile that is named (AWS_PROFILE) must exist; without a
name `default` is taken where it is. Where there are no credentials at all, obstore asks what the machine offers: web
identity, container or instance. With an endpoint of its own a store is asked by path style, unless the option says no.

Secrets are in `S3Access.credentials` only, which no repr shows.
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigurationError

ENDPOINT, REGION, PATH_STYLE = "s3.endpoint", "s3.region", "s3.path.style.access"
ACCESS_KEY, SECRET_KEY = "s3.access-key", "s3.secret-key"
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class S3Access:
    """Everything that a client of an S3 store needs to know."""

    bucket: str
    endpoint: str | None
    """URL; None: Amazon's of the region."""
    region: str
    path_style: bool
    credentials: dict[str, str] = field(repr=False, default_factory=dict)
    """As obstore's providers name them; empty: what the machine offers."""

    def config(self) -> dict[str, object]:
        """Of obstore's S3Store, without the credentials."""
        config: dict[str, object] = {"region": self.region, "virtual_hosted_style_request": not self.path_style}
        if self.endpoint is not None:
            endpoint = self.endpoint
            if not self.path_style:  # obstore wants the bucket in it
                parts = urlsplit(endpoint)
                endpoint = f"{parts.scheme}://{self.bucket}.{parts.netloc}{parts.path}"
            config["endpoint"] = endpoint
        return config


def s3_access(url: str, options: Mapping[str, str], environ: Mapping[str, str]) -> S3Access:
    """For `s3://bucket/path`. ConfigurationError says which setting is wrong, and never its value if that is secret."""
    bucket = urlsplit(url).netloc
    if not bucket or "@" in bucket or ":" in bucket:
        raise ConfigurationError("An S3 location is written s3://bucket/path: the bucket's name is missing or odd.")
    profile = _Profile(environ)
    special = environ.get("AWS_ENDPOINT_URL_S3")
    if special and options.get(ENDPOINT, special).rstrip("/") != special.rstrip("/"):  # obstore would take the latter
        raise ConfigurationError(f"{ENDPOINT} and the variable AWS_ENDPOINT_URL_S3 differ: unset one of them.")
    endpoint = (
        options.get(ENDPOINT)
        or _first(environ, "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        or profile.get("endpoint_url")
    )
    if endpoint is not None:
        endpoint = _checked(endpoint.rstrip("/"))
    region = options.get(REGION) or _first(environ, "AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region")
    path_style = (options.get(PATH_STYLE) or str(endpoint is not None)).lower()
    if path_style not in ("true", "false"):
        raise ConfigurationError(f"option {PATH_STYLE}: {path_style!r} is neither true nor false")
    credentials = _credentials(options, environ, profile)
    return S3Access(bucket, endpoint, region or DEFAULT_REGION, path_style == "true", credentials)


def _checked(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    try:
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or any(c.isspace() for c in endpoint):
        raise ConfigurationError(f"The endpoint of the object store ({ENDPOINT}) must be a URL like http://host:9000.")
    if parts.username or parts.password:
        raise ConfigurationError(
            f"The endpoint of the object store ({ENDPOINT}) holds a user or password: give {ACCESS_KEY} and "
            f"{SECRET_KEY} instead."
        )
    return endpoint


def _credentials(options: Mapping[str, str], environ: Mapping[str, str], profile: _Profile) -> dict[str, str]:
    """All of one place: a key of one and a secret of another never fit."""
    places = (
        ("options", (options.get(ACCESS_KEY), options.get(SECRET_KEY), None), (ACCESS_KEY, SECRET_KEY)),
        (
            "environment",
            (environ.get("AWS_ACCESS_KEY_ID"), environ.get("AWS_SECRET_ACCESS_KEY"), environ.get("AWS_SESSION_TOKEN")),
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ),
        (
            f"profile {profile.name}",
            tuple(map(profile.get, ("aws_access_key_id", "aws_secret_access_key", "aws_session_token"))),
            ("aws_access_key_id", "aws_secret_access_key"),
        ),
    )
    for place, (key, secret, token), names in places:
        if bool(key) != bool(secret):
            raise ConfigurationError(
                f"Credentials of the object store: the {place} give {names[0] if key else names[1]} without "
                f"{names[1] if key else names[0]}."
            )
        if key and secret:
            found = {"access_key_id": key.strip(), "secret_access_key": secret.strip()}
            return found | ({"token": token.strip()} if token else {})
    return {}


class _Profile:
    """A section of ~/.aws/credentials and ~/.aws/config; the first file wins. Empty if it is there in neither."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.name = environ.get("AWS_PROFILE") or "default"
        home = Path(environ.get("HOME") or Path.home()) / ".aws"
        credentials = Path(environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials")
        config = Path(environ.get("AWS_CONFIG_FILE") or home / "config")
        self._values: dict[str, str] = {}
        in_config = self.name if self.name == "default" else f"profile {self.name}"
        found = [self._read(config, in_config), self._read(credentials, self.name)]
        if not any(found) and environ.get("AWS_PROFILE"):
            raise ConfigurationError(f"AWS_PROFILE={self.name}: neither {credentials} nor {config} has that profile.")

    def _read(self, path: Path, section: str) -> bool:
        parser = configparser.RawConfigParser()
        try:
            with open(path, encoding="utf-8") as file:
                parser.read_file(file)
        except FileNotFoundError:
            return False
        except configparser.Error as error:  # its text may quote the line, and so a secret
            raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}.") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {getattr(error, 'strerror', 'it is no text')}.") from None
        if not parser.has_section(section):
            return False
        self._values.update(parser.items(section))
        return True

    def get(self, key: str) -> str | None:
        return self._values.get(key) or None


def _first(environ: Mapping[str, str], *names: str) -> str | None:
    return next((environ[name] for name in names if environ.get(name)), None)
