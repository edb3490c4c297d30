"""From host and secret to a logged-in client over verified TLS; what goes wrong on the way, as one of our errors."""

import imaplib
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any

from imapclient.exceptions import LoginError

from mailtagger.errors import LoginRefused, MailboxError, MailtaggerError, TryLater
from mailtagger.imap_syntax import printable, response_code
from mailtagger.imap_wire import LOST, Client, Server, clean, lost, reason
from mailtagger.secret import Secret

# Answers to a login (RFC 5530): the server is busy, or this user has too many connections.
BUSY = {"UNAVAILABLE", "LIMIT", "INUSE", "SERVERBUG"}
WRONG = {"AUTHENTICATIONFAILED", "AUTHORIZATIONFAILED", "EXPIRED"}
BUSY_WORDS = re.compile(r"too many|temporar|try again", re.IGNORECASE)


def connect(server: Server, secret: Callable[[], Secret]) -> Client:
    """A logged-in client; TryLater, LoginRefused or MailboxError otherwise, with the connection closed."""
    context = _context(server)
    client = _reach(server, context)
    try:
        first = secret()
        try:
            _login(client, server, first)
            return client
        except LoginRefused:
            second = secret() if first.kind == "token" else first  # the token may have expired
            if second.value == first.value:
                raise
        client.hang_up()
        client = _reach(server, context)
        _login(client, server, second)
        return client
    except BaseException:
        client.hang_up()
        raise


def _reach(server: Server, context: ssl.SSLContext | None) -> Client:
    """Connected and encrypted as the settings ask, not logged in."""
    where = f"{server.host}:{server.port}"
    check = "Check `host`, `port` and `tls` in the configuration, and the network."
    client: Client | None = None
    try:
        client = Client(server, context)
        if server.tls == "starttls":
            if "STARTTLS" not in client.wire.capabilities or client.wire.state != "NONAUTH":
                raise MailboxError(
                    f"{where} does not offer STARTTLS; the password was not sent.",
                    "Use `tls: implicit` with port 993. If it did offer it before, someone may be in between.",
                )
            client.starttls(context)
        return client
    except ssl.SSLError as error:
        problem: MailtaggerError = _untrusted(error, server)
    except socket.gaierror as error:
        problem = TryLater(f"The host name {server.host} cannot be resolved: {error.strerror}.", check)
    except TimeoutError:
        problem = TryLater(f"{where} does not answer.", check)
    except OSError as error:
        problem = TryLater(f"{where} cannot be reached: {reason(error)}.", check)
    except imaplib.IMAP4.error as error:  # a greeting that is BYE, or no IMAP at all
        problem = TryLater(f"{where} does not let us in: {reason(error)}.", check)
    except BaseException:
        if client:
            client.hang_up()
        raise
    if client:
        client.hang_up()
    raise problem


def _context(server: Server) -> ssl.SSLContext | None:
    if server.tls == "none":
        if not _is_loopback(server.host):
            raise MailboxError(
                f"Without TLS the password for {server.host} would cross the network in the clear.",
                "Set `tls: implicit` or `tls: starttls`; `none` is for a server on this machine.",
            )
        return None
    try:
        context = ssl.create_default_context(cafile=server.ca_file)
    except OSError as error:
        raise MailboxError(
            f"The ca_file {server.ca_file} cannot be used: {reason(error)}.", "It must hold certificates in PEM form."
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in ("localhost", "localhost.")


def _untrusted(error: ssl.SSLError, server: Server) -> MailtaggerError:
    where, why = f"{server.host}:{server.port}", error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (62, 64):  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
            names = _names(server) or "another name"
            return MailboxError(
                f"The certificate of {where} is for {names}, not for {server.host}.",
                "Set `host` to a name that the certificate has.",
            )
        return MailboxError(
            f"The certificate of {where} is not trusted: {error.verify_message}.",
            "It has to be renewed on the server." if error.verify_code == 10  # X509_V_ERR_CERT_HAS_EXPIRED
            else "If it comes from a private authority, set `ca_file` to that authority's certificate (PEM).",
        )
    if why in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNEXPECTED_MESSAGE", "RECORD_LAYER_FAILURE"):
        return MailboxError(
            f"{where} does not speak TLS.", "Set `tls: starttls`, or the port of IMAP over TLS, usually 993."
        )
    if any(word in why for word in ("PROTOCOL", "NO_SHARED_CIPHER", "HANDSHAKE_FAILURE")):
        return MailboxError(f"{where} and mailtagger have no version of TLS in common; it takes 1.2 or later.")
    return TryLater(f"The TLS handshake with {where} failed: {reason(error)}.")


def _names(server: Server) -> str:
    """The names in the certificate, for the error message; all but the name is verified, and nothing is sent."""
    context = _context(server)
    if context is None:
        return ""
    context.check_hostname = False
    try:
        client = Client(server, context)
        try:
            if server.tls == "starttls":
                client.starttls(context)
            encrypted: Any = client.wire.sock
            certificate = encrypted.getpeercert() or {}
        finally:
            client.hang_up()
    except LOST:
        return ""
    return ", ".join(printable(name) for _, name in certificate.get("subjectAltName", ()))


def _login(client: Client, server: Server, secret: Secret) -> None:
    mechanism, answers = _mechanism(server, {word.upper() for word in client.wire.capabilities}, secret)
    try:
        if mechanism == "LOGIN":
            client.login(server.username, secret.value)
        else:
            rest = iter(answers)
            client.sasl_login(mechanism, lambda challenge: next(rest, ""))
    except LoginError as error:
        cause = error.__context__
        if isinstance(cause, imaplib.IMAP4.abort):  # IMAPClient calls a lost connection a LoginError too
            raise lost(imaplib.IMAP4.abort(secret.hidden(str(cause))), server, "logging in") from error
        raise _refused(secret.hidden(str(error)), server, secret) from error
    except (*LOST, ValueError) as error:  # ValueError: a challenge that is no base64
        raise lost(error, server, "logging in") from error
    finally:
        client.wire.alerts[:] = map(secret.hidden, client.wire.alerts)


def _mechanism(server: Server, offered: set[str], secret: Secret) -> tuple[str, list[str]]:
    """LOGIN or the name of a SASL mechanism, and what to answer to its challenges."""
    user, value = server.username, secret.value
    if secret.kind == "token":
        if "AUTH=XOAUTH2" in offered:
            return "XOAUTH2", [f"user={user}\1auth=Bearer {value}\1\1", ""]  # "" answers an error, then NO comes
        if "AUTH=OAUTHBEARER" in offered:  # RFC 7628
            name = user.replace("=", "=3D").replace(",", "=2C")
            where = f"host={server.host}\1port={server.port}"
            return "OAUTHBEARER", [f"n,a={name},\1{where}\1auth=Bearer {value}\1\1", "\1"]
        raise MailboxError(f"{server.host} offers no login by token.", "Use a password instead of token_command.")
    plain = (user + value).isascii() and (user + value).isprintable()
    if plain and "LOGINDISABLED" not in offered:
        return "LOGIN", []
    if "AUTH=PLAIN" in offered:  # RFC 4616: UTF-8
        return "PLAIN", [f"\0{user}\0{value}"]
    raise MailboxError(
        f"{server.host} offers no login that can carry this user name and password.",
        "Use ASCII alone in both." if not plain else "The server may allow none without TLS: set `tls`.",
    )


def _refused(text: str, server: Server, secret: Secret) -> MailtaggerError:
    code, answer = response_code(text), clean(text)
    if code in BUSY or (code not in WRONG and BUSY_WORDS.search(text)):
        return TryLater(f"{server.host} does not let {server.username} in at the moment: {answer}.")
    if code == "PRIVACYREQUIRED":
        return MailboxError(f"{server.host} allows no login without TLS.", "Set `tls: starttls` or `tls: implicit`.")
    return LoginRefused(
        f"{server.host} refuses the {secret.kind} of {server.username}: {answer}.",
        "Check `username`, and where the secret comes from: systemd credential, keyring, environment or command.",
    )
