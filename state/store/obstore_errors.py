"""What obstore raises, as our errors: what can be tried again, what cannot, and what may be said about it.

S3 and its relatives answer errors as XML with a code, and the HTTP status alone misleads: 404 may mean that there is
no such object, no such bucket, no such user, or that something else answers at that address (a proxy, a load
balancer). Only NoSuchKey is "no such object": a job's log ends where an object is said not to exist, so nothing else
may pass for it. What is not known is taken for a passing trouble.

The texts are our own. obstore's hold the whole answer, with access key and signature in it; so its exception is not
kept as the cause either.
"""

from __future__ import annotations

import errno
import html
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)

from ..errors import (
    ObjectAlreadyExists,
    ObjectNotFound,
    ObjectStoreDenied,
    ObjectStoreError,
    ObjectStoreNotServing,
    ObjectStoreUnavailable,
)
from .local_files import FULL

_FINAL_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG})
_FINAL_ERRORS = (PermissionDeniedError, UnauthenticatedError, InvalidPathError, NotSupportedError)
_OS_ERROR = re.compile(r"os error (\d+)")

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,80})</Code>")
_EXPECTED_REGION = re.compile(r"<Region>([a-z0-9-]{1,40})</Region>")
_ADDRESS = re.compile(r"\b(https?://[^/\s?@]+)[/?\s]")
_MESSAGE = re.compile(r'message: "([^"]{1,200})"')
PASSING_CODES = frozenset(
    {"SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "Throttling", "RequestLimitExceeded",
     "ConditionalRequestConflict", "OperationAborted"}
)  # fmt: skip
NO_OBJECT, BEYOND_THE_END = "NoSuchKey", "InvalidRange"
_WHAT_TO_DO = {
    "NoSuchBucket": "the bucket does not exist: create it, or correct the location",
    "InvalidBucketName": "that is no name of a bucket",
    "SignatureDoesNotMatch": "the secret key does not fit the access key: check s3.secret-key, "
    "AWS_SECRET_ACCESS_KEY or the profile",
    "InvalidAccessKeyId": "the access key is not known: check s3.access-key, AWS_ACCESS_KEY_ID or the profile",
    "XAdminUserNotFound": "the access key is not known: check s3.access-key, AWS_ACCESS_KEY_ID or the profile",
    "AccessDenied": "these credentials may not do that: listing, reading, writing and deleting must be allowed",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "RequestTimeTooSkewed": "the clocks of this machine and the store differ too much",
    "AuthorizationHeaderMalformed": "the store is in another region: set s3.region or AWS_REGION",
    "PermanentRedirect": "the bucket is in another region, or at another endpoint: set s3.region, s3.endpoint",
    "AuthorizationQueryParametersError": "the store is in another region: set s3.region or AWS_REGION",
}
_NO_CREDENTIALS = (
    "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, s3.access-key and s3.secret-key, or "
    "a profile in ~/.aws/credentials"
)
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2")


@dataclass(frozen=True, slots=True)
class Answer:
    """What can be made out of an error of obstore's S3 store."""

    status: int | None
    code: str | None
    reason: str
    """To be shown; without secrets."""

    @property
    def passing(self) -> bool:
        if self.code in PASSING_CODES or self.status is None:
            return True
        if self.status == 404:
            return self.code is None
        return self.status >= 500 or self.status in (408, 425, 429)

    @property
    def error(self) -> type[ObjectStoreError]:
        if not self.passing:
            return ObjectStoreDenied
        return ObjectStoreUnavailable if self.status in (None, 404) else ObjectStoreNotServing


def answer_of(error: BaseException) -> Answer:
    text = str(error)
    status, code = _STATUS.search(text), _CODE.search(text)
    address = _ADDRESS.search(text)
    where = address[1] if address else "the store"
    number = int(status[1]) if status else None
    if any(service in where for service in _METADATA_SERVICES):
        return Answer(403, None, _NO_CREDENTIALS)
    if number is None:
        return Answer(None, None, f"{where} {_why_not_reached(text)}")
    if code is None:
        if 300 <= number < 400:
            return Answer(number, None, f"{where} answers {number}: {_WHAT_TO_DO['PermanentRedirect']}")
        return Answer(number, None, f"{where} answers {number} and no reason: is that an object store?")
    expected = _EXPECTED_REGION.search(text)
    advice = _WHAT_TO_DO.get(code[1], "")
    if expected and "region" in advice:
        advice += f" to {html.escape(expected[1])}"
    return Answer(number, code[1], f"{where} answers {number} {code[1]}" + (f", {advice}" if advice else ""))


def _why_not_reached(text: str) -> str:
    if "kind: Timeout" in text or "TimedOut" in text or "operation timed out" in text:
        return "did not answer in time"
    if (number := _OS_ERROR.search(text)) or (number := re.search(r"\bOs \{\s*code: (\d+)", text)):
        return f"cannot be reached: {os.strerror(int(number[1])).lower()}"
    if "dns error" in text or "failed to lookup address" in text:
        return "cannot be reached: there is no such host"
    message = _MESSAGE.search(text)
    return f"cannot be reached: {message[1]}" if message else "cannot be reached, or broke the connection"


@contextmanager
def translated(what: str, *, s3: bool) -> Iterator[None]:
    """The errors of obstore and of the file system as ours; `what` was to be done."""
    try:
        yield
    except ObjectStoreError:
        raise
    except AlreadyExistsError:
        raise ObjectAlreadyExists(f"{what}: it exists already.") from None
    except FileNotFoundError as error:
        if s3:
            raise _of_s3(what, error) from None
        raise ObjectNotFound(f"{what}: there is no such object.") from error
    except (BaseError, OSError) as error:
        if s3 and not (isinstance(error, OSError) and error.errno is not None):
            raise _of_s3(what, error) from None
        raise _of_directory(error)(f"{what}: {local_reason(error)}.") from error


def _of_s3(what: str, error: Exception) -> ObjectStoreError:
    answer = answer_of(error)
    if answer.code == NO_OBJECT:
        return ObjectNotFound(f"{what}: there is no such object.")
    if isinstance(error, InvalidPathError | NotSupportedError):
        return ObjectStoreDenied(f"{what}: {first_line(error)}.")
    return answer.error(f"{what}: {answer.reason}.")


def _of_directory(error: Exception) -> type[ObjectStoreError]:
    if isinstance(error, _FINAL_ERRORS) or _errno(error) in _FINAL_ERRNOS:
        return ObjectStoreDenied
    return ObjectStoreNotServing if _errno(error) in FULL else ObjectStoreUnavailable


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = _OS_ERROR.search(str(error))
    return int(found[1]) if found else None


def local_reason(error: Exception) -> str:
    number = _errno(error)
    if number is None:
        return first_line(error)
    return os.strerror(number).lower() + (", make room there" if number in FULL else "")


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".")
