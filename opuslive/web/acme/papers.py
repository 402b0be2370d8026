"""Keys, requests and certificates, as PEM."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Certificates in a chain.
_MAX_CHAIN = 10
#: How long the certificate is good for that stands in for one of the authority's.
_STAND_IN_LIFE = timedelta(days=7)
#: So much may clocks differ.
_CLOCKS_DIFFER = timedelta(hours=1)


class UnusableChain(Exception):
    """What an authority issued is not what was asked for. The message says in what way."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def read_key(pem: bytes) -> ec.EllipticCurvePrivateKey | None:
    """The key that ``key_pem`` wrote; None if it can't be read."""
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def request_pem(name: str, key: ec.EllipticCurvePrivateKey) -> bytes:
    """The request for a certificate. (A name may be too long for the subject.)"""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    return (
        builder.add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def issued_pem(chain: bytes, name: str, key: ec.EllipticCurvePrivateKey, now: float) -> bytes:
    """The private key and the chain that was issued for it, in one text.

    Nothing else gets into it, whatever stands around the certificates. Raises UnusableChain.
    """
    certificates = _certificates(chain)
    if not 1 <= len(certificates) <= _MAX_CHAIN:
        raise UnusableChain("it holds no chain of certificates")
    leaf = certificates[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        named = name in names.get_values_for_type(x509.DNSName)
        own = _public_bytes(leaf.public_key()) == _public_bytes(key.public_key())
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        named = own = False
    if not own:
        raise UnusableChain("the certificate is not for the key that was sent")
    if not named:
        raise UnusableChain("the certificate is for another name")
    if leaf.not_valid_after_utc.timestamp() <= now:
        raise UnusableChain("by this machine's clock the certificate has expired already")
    return key_pem(key) + b"".join(each.public_bytes(Encoding.PEM) for each in certificates)


def certificate_id(pem: bytes) -> str | None:
    """By what an authority knows a certificate (RFC 9773, 4.1); None if it can't be told."""
    certificates = _certificates(pem)
    if not certificates:
        return None
    leaf = certificates[0]
    try:
        authority = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    if authority.key_identifier is None:
        return None
    serial = leaf.serial_number
    # DER's integers have a sign, so a first bit of 1 needs a zero before it.
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    return f"{_base64(authority.key_identifier)}.{_base64(number)}"


def stand_in_pem(name: str, now: float) -> bytes:
    """A private key and a certificate that nobody vouches for. Its subject says what it is."""
    key = new_key()
    moment = datetime.fromtimestamp(now, UTC)
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, "OpusLive waits for its certificate")]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment - _CLOCKS_DIFFER)
        .not_valid_after(moment + _STAND_IN_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key_pem(key) + certificate.public_bytes(Encoding.PEM)


def _certificates(pem: bytes) -> Sequence[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _public_bytes(key: object) -> bytes:
    # Every kind of key has it, and no type says so.
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return encoded


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
