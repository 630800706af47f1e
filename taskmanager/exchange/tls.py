"""Mutual TLS between slots of different nodes.

Every node has a certificate that the cluster's authority signed, and takes only peers that have one, too. Host names
are not checked: nodes come and go with their addresses, and who may be a peer is said by the authority's signature and
the job's secret (handshake.py). Only TLS 1.3 is spoken.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from ...state.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Paths of PEM files."""

    certificate: str
    key: str
    authority: str

    def contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """For accepted connections and for own ones. ConfigurationError when a file is missing or does not fit."""
        return self._context(ssl.PROTOCOL_TLS_SERVER), self._context(ssl.PROTOCOL_TLS_CLIENT)

    def _context(self, protocol: int) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authority)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"TLS between slots: certificate {self.certificate}, key {self.key} and authority {self.authority} "
                f"(security.ssl.internal.*) cannot be used: {error}"
            ) from error
        return context
