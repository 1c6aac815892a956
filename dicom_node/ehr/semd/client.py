"""How a draft is brought to the physician's system: `FolderSender` puts files into a folder, `ServiceSender` over HTTP.

Made by `ehr.receivers.semd`, one for each destination. A draft is named by its document id, so a second attempt finds
what the first one left: equal bytes are as good as sent, other bytes are never replaced.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from http import HTTPStatus
from pathlib import Path
from typing import Final

from dicom_node.ehr.answer import Accepted, Answer, Refused, Retry
from dicom_node.ehr.destination import DestinationMisconfigured, read_secret
from dicom_node.ehr.exchange import HttpAnswer, HttpExchange, NoAnswer
from dicom_node.ehr.receiver import Envelope, Held
from dicom_node.ehr.semd.destination import SemdDestination

XML: Final = "application/xml"
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", re.ASCII)
_NO_SYNC_OF_FOLDERS: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS})
_FILE_MODE: Final = 0o640  # holds patient data: owner writes, the folder's group reads, others see nothing

_TAKEN: Final = frozenset({HTTPStatus.OK, HTTPStatus.CREATED, HTTPStatus.ACCEPTED, HTTPStatus.NO_CONTENT})
_CLIENT_ERROR: Final = range(400, 500)
# The settings of either side are at fault, or the moment is: nothing is wrong with the document.
_WORTH_RETRYING: Final = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
        HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.LOCKED,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }
)
_REMEDIES: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "check the token of the destination",
    HTTPStatus.FORBIDDEN: "allow this node's account to put documents there",
    HTTPStatus.NOT_FOUND: "url must be the address below which documents are put",
    HTTPStatus.METHOD_NOT_ALLOWED: "url must be an address below which documents may be put",
    HTTPStatus.CONFLICT: "it has other content under the id of this document",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "raise the limit of request size there",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "the service does not take XML",
    HTTPStatus.UNPROCESSABLE_ENTITY: "the server's rules are against the document",
    HTTPStatus.TOO_MANY_REQUESTS: "the server asks to wait",
    HTTPStatus.SERVICE_UNAVAILABLE: "the server is not available now",
    HTTPStatus.INSUFFICIENT_STORAGE: "its disk is full",
}
_GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
_NOT_OFFERED: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
_NOT_ALLOWED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


def sidecar(document: bytes, envelope: Envelope) -> bytes:
    """Write what a receiver may want to know without opening the draft, as JSON."""
    told = {
        "document_id": envelope.document_id,
        "set_id": envelope.set_id,
        "version": envelope.version,
        "kind": envelope.kind.value,
        "study_uid": envelope.study_uid,
        "sha256": _digest(document),
    }
    return json.dumps(told, indent=1).encode() + b"\n"


class FolderSender:
    """A folder that the physician's system empties. A draft's appearance under its name is the signal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Put the draft there, its sidecar first; a folder that cannot be written is `Retry`."""
        name = _name(envelope)
        try:
            return self._put(name, document, envelope)
        except OSError as error:
            return Retry(reason=f"{self._unusable(error)}: is it there, writable for this node, and is there room?")

    def confirm(self, envelope: Envelope) -> Held:
        """A folder says nothing: the system takes drafts away when it likes."""
        return Held.UNSAID

    def check(self) -> str:
        """Make a file and take it away again."""
        trial = self._folder / ".radnode-check"
        try:
            _write(trial, b"radnode\n")
            trial.unlink()
        except OSError as error:
            return self._unusable(error)
        return ""

    def close(self) -> None:
        """Nothing is held open."""

    def _put(self, name: str, document: bytes, envelope: Envelope) -> Answer:
        draft = self._folder / f"{name}.xml"
        lies = _same(draft, document)
        if lies is False:
            return Refused(reason="the folder has other content under this document's id: look at both, remove one")
        if lies is None:
            self._bring(self._folder / f"{name}.json", sidecar(document, envelope))
            self._bring(draft, document)
        # Also where the draft lies already: the attempt that left it may have been killed before this.
        _sync_folder(self._folder)
        return Accepted()

    def _bring(self, path: Path, content: bytes) -> None:
        """Let `path` appear whole, on the file system on which it is to lie."""
        whole = path.with_name(f".{path.name}.part")
        try:
            _write(whole, content)
            whole.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                whole.unlink()
            raise

    def _unusable(self, error: OSError) -> str:
        return f"the folder {self._folder} cannot be used ({error.strerror or type(error).__name__})"


class ServiceSender:
    """A service over HTTP that takes drafts by PUT.

    Raises
    ------
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: SemdDestination) -> None:
        assert destination.url is not None, "the settings have folder or url"
        self._destination = destination
        self._url = destination.url.rstrip("/")
        self._exchange = HttpExchange(
            connect_timeout_s=destination.connect_timeout_s,
            response_timeout_s=destination.response_timeout_s,
            tls=destination.tls,
        )

    def send(self, document: bytes, envelope: Envelope) -> Answer:
        """Put the draft under its id; faults of the network are `Retry`, never raised."""
        headers = {
            "Content-Type": XML,
            "Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(document).digest()).decode('ascii')}:",
            "Radnode-Set-Id": envelope.set_id,
            "Radnode-Version": str(envelope.version),
            "Radnode-Kind": envelope.kind.value,
            "Radnode-Study-Uid": envelope.study_uid,
        }
        try:
            answer = self._ask("PUT", f"/{_name(envelope)}", headers, document)
        except NoAnswer as error:
            return Retry(reason=str(error), unsent=error.unsent)
        except DestinationMisconfigured as error:
            return Retry(reason=str(error), unsent=True)
        return _judge(answer, document, envelope)

    def confirm(self, envelope: Envelope) -> Held:
        """Ask for the draft by its id; where HEAD is not offered, by GET."""
        address = f"/{_name(envelope)}"
        try:
            answer = self._ask("HEAD", address)
            if answer.status in _NOT_OFFERED:
                answer = self._ask("GET", address)
        except (NoAnswer, DestinationMisconfigured):
            return Held.ASK_AGAIN
        if answer.status == HTTPStatus.OK:
            return Held.YES
        if answer.status in _GONE:
            return Held.NO
        return Held.UNSAID if answer.status in _NOT_OFFERED else Held.ASK_AGAIN

    def check(self) -> str:
        """Ask the address itself by HEAD: any answer but a redirect or a refusal of this node will do."""
        try:
            answer = self._ask("HEAD", "")
        except (NoAnswer, DestinationMisconfigured) as error:
            return str(error)
        return _explain(answer) if answer.redirect or answer.status in _NOT_ALLOWED else ""

    def close(self) -> None:
        """Close connections that were kept alive."""
        self._exchange.close()

    def _ask(
        self, method: str, address: str, headers: dict[str, str] | None = None, content: bytes | None = None
    ) -> HttpAnswer:
        """Ask; only what is said to a draft is read, of other answers the status is all."""
        known = dict(headers or {})
        if self._destination.sends_token:
            token = read_secret(self._destination.token_env, self._destination.token_file)
            known["Authorization"] = f"Bearer {token}"
        return self._exchange.ask(
            method,
            self._url + address,
            headers=known,
            max_bytes=None if content is None else self._destination.max_response_bytes,
            content=content,
        )


def _judge(answer: HttpAnswer, document: bytes, envelope: Envelope) -> Answer:
    """Decide by the status; of a body only our own digest is looked for."""
    if answer.status in _TAKEN:
        return Accepted()
    reason = _explain(answer)
    if answer.redirect:
        return Refused(reason=reason)
    if answer.status == HTTPStatus.CONFLICT and _has_same(answer, document):
        return Accepted()
    if answer.status in _CLIENT_ERROR and answer.status not in _WORTH_RETRYING:
        told = envelope.discretion.told(_words(answer.body))
        return Refused(reason=f"{reason} ({told})" if told else reason)
    return Retry(reason=reason, after_s=answer.retry_after_s)


def _has_same(answer: HttpAnswer, document: bytes) -> bool:
    digest = _digest(document)
    return digest in answer.etag.lower() or digest.encode() in answer.body.lower()


def _words(body: bytes) -> str:
    """What a person may read in a refusal; markup of any kind is left unread."""
    text = body.decode("utf-8", errors="replace").strip()
    return "" if text.startswith("<") else text


def _explain(answer: HttpAnswer) -> str:
    if answer.redirect:
        return f"the server redirects to {answer.redirect} (HTTP {answer.status}): set url to the final address"
    return f"the server answered HTTP {answer.status}: {_REMEDIES.get(answer.status, 'see its log')}"


def _name(envelope: Envelope) -> str:
    """The document id, which becomes a file's name and a part of an address."""
    if not _ID.fullmatch(envelope.document_id):
        raise ValueError("the id of a document must be letters, digits, - and _")
    return envelope.document_id


def _digest(document: bytes) -> str:
    return hashlib.sha256(document).hexdigest()


def _same(path: Path, content: bytes) -> bool | None:
    """Whether `path` has this content; None when there is nothing."""
    try:
        known = path.lstat()
    except FileNotFoundError:
        return None
    return stat.S_ISREG(known.st_mode) and known.st_size == len(content) and path.read_bytes() == content


def _write(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns; what an earlier attempt left under its name is dropped."""
    path.unlink(missing_ok=True)
    # Never through a link that somebody else put into a shared folder.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Shares of other machines may know no such call for a folder; their server sees to it.
        if error.errno not in _NO_SYNC_OF_FOLDERS:
            raise
    finally:
        os.close(descriptor)
