"""`KafkaSender`: brings messages to the brokers of an exchange, one at a time, each judged by its delivery report.

Made by `receivers.kafka`, one for each destination. Messages are `message`'s. The library (librdkafka) is optional and
loaded here alone. A consumer may see a message twice, after a lost answer or a killed node, always under the same
document id in its headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dicom_node.delivery.tls import client_context
from dicom_node.ehr.answer import Accepted, Answer, Refused, Retry
from dicom_node.ehr.destination import DestinationMisconfigured, read_secret
from dicom_node.ehr.moscow.destination import KafkaDestination, is_here
from dicom_node.ehr.moscow.message import is_error
from dicom_node.ehr.moscow.profile import MoscowProfile
from dicom_node.ehr.receiver import Envelope
from dicom_node.states import DocumentKind

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Message, Producer

_MS: Final = 1000
_LEAST_CONNECT_MS: Final = 1000  # librdkafka takes no less for socket.connection.setup.timeout.ms
_MARGIN_S: Final = 2.0  # beyond the delivery timeout, until its report is there
# Errors that are the message's own, by librdkafka's names: it would be the same message tomorrow.
_MESSAGE_FAULTS: Final = {
    "MSG_SIZE_TOO_LARGE": "the message is larger than the brokers or the topic accept",
    "RECORD_LIST_TOO_LARGE": "the message is larger than a segment of the topic",
    "INVALID_RECORD": "the brokers hold the message for invalid",
    "POLICY_VIOLATION": "the message breaks a policy of the brokers",
}
_AUTHENTICATION: Final = "the brokers do not accept who we are: see username, password and certificate"
_PERMISSION: Final = "the brokers do not allow this user to write: ask for WRITE on both topics"
_TOPIC: Final = "the brokers do not know the topic or do not show it: have it created, or correct the profile"
_TLS: Final = "TLS with the brokers fails: see [tls], and whether the port speaks TLS"
_REMEDIES: Final = {
    "_AUTHENTICATION": _AUTHENTICATION,
    "SASL_AUTHENTICATION_FAILED": _AUTHENTICATION,
    "UNSUPPORTED_SASL_MECHANISM": _AUTHENTICATION,
    "ILLEGAL_SASL_STATE": _AUTHENTICATION,
    "_SSL": _TLS,
    "TOPIC_AUTHORIZATION_FAILED": _PERMISSION,
    "CLUSTER_AUTHORIZATION_FAILED": _PERMISSION,
    "UNKNOWN_TOPIC_OR_PART": _TOPIC,
    "_UNKNOWN_TOPIC": _TOPIC,
    "_UNKNOWN_PARTITION": _TOPIC,
    "TOPIC_EXCEPTION": _TOPIC,
    "_RESOLVE": "the name of a broker is not known: see bootstrap_servers",
    "_MSG_TIMED_OUT": "the brokers did not acknowledge in time: do enough of them run? or raise response_timeout_s",
}
_TELLING: Final = ("_AUTHENTICATION", "_SSL", "_RESOLVE", "_TRANSPORT")  # of several errors this one is the cause
_UNREACHED: Final = "no broker answers: are they running, and are bootstrap_servers and security right?"
_ELSEWHERE: Final = (
    "the brokers name an address on another machine, and results would go there without TLS: "
    "give [tls], or set clear_text = true on a network you trust"
)


class _NotSent(Exception):
    """Nothing was handed to the library; the message is the reason."""


class KafkaSender:
    """The brokers of an exchange. Calls block, never beyond the destination's timeouts; for one thread at a time.

    Raises
    ------
    DestinationMisconfigured
        When the library is not installed.
    ArchiveMisconfigured
        When a certificate named in the settings cannot be used.
    """

    def __init__(self, destination: KafkaDestination, profile: MoscowProfile) -> None:
        try:
            import confluent_kafka
        except ImportError:
            raise DestinationMisconfigured(
                f"{destination.name}: Kafka needs the package confluent-kafka: pip install 'radnode[kafka]'"
            ) from None
        if destination.tls is not None:
            client_context(destination.tls)  # here a faulty file is told with its name
        self._kafka = confluent_kafka
        self._destination = destination
        self._profile = profile
        self._producer: Producer | None = None
        self._is_reached = False
        self._errors: set[str] = set()

    def send(self, message: bytes, envelope: Envelope) -> Answer:
        """Send one message and wait until the brokers have it; faults of network and brokers are `Retry`.

        Parameters
        ----------
        message : bytes
            As `write_result` or `write_error` gave it under the same profile.
        envelope : Envelope
        """
        try:
            answer = self._deliver(self._reached(), message, envelope)
        except (_NotSent, DestinationMisconfigured) as error:
            answer = Retry(reason=str(error))
        except self._kafka.KafkaException as error:
            answer = judge(error.args[0])
        if isinstance(answer, Retry):
            # The next attempt begins with a new producer: nothing of this one is left in a queue, and a password or
            # certificate that was changed meanwhile is read.
            self.close()
        return answer

    def probe(self) -> str:
        """What is wrong with brokers, credentials and topics, asked without sending; empty when nothing."""
        try:
            known = self._reached(anew=True).list_topics(timeout=self._destination.connect_timeout_s).topics
        except (_NotSent, DestinationMisconfigured) as error:
            return str(error)
        except self._kafka.KafkaException as error:
            return _told(error.args[0])
        wanted = (self._profile.topics.result, self._profile.topics.error)
        missing = [topic for topic in wanted if topic not in known or known[topic].error is not None]
        return f"{_TOPIC} ({', '.join(missing)})" if missing else ""

    def close(self) -> None:
        """Drop connections and whatever was not acknowledged: the caller was told to send that again."""
        producer, self._producer, self._is_reached = self._producer, None, False
        if producer is not None:
            producer.purge(in_queue=True, in_flight=True, blocking=False)
            producer.flush(_MARGIN_S)  # serves the reports of what was purged; there is nothing to wait for
            producer.close()

    def _reached(self, *, anew: bool = False) -> Producer:
        """A producer whose brokers answer: what cannot be sent never stands in a queue."""
        if self._producer is None:
            self._producer = self._opened()
        if not self._is_reached or anew:
            self._ask(self._producer)
            self._is_reached = True
        return self._producer

    def _ask(self, producer: Producer) -> None:
        """Ask for the brokers; raises `_NotSent` where none answers, or one is where nothing may go."""
        self._errors.clear()
        try:
            brokers = producer.list_topics(timeout=self._destination.connect_timeout_s).brokers.values()
        except self._kafka.KafkaException:
            producer.poll(0)  # serves the errors of connections, which name the cause
            name = next((one for one in _TELLING if one in self._errors), "")
            raise _NotSent(f"{_REMEDIES.get(name, _UNREACHED)} ({name or 'silence'})") from None
        hosts = {f"[{one.host}]" if ":" in one.host else one.host for one in brokers}
        if self._destination.must_stay_here and not all(map(is_here, hosts)):
            raise _NotSent(_ELSEWHERE)

    def _opened(self) -> Producer:
        settings = _settings(self._destination) | {"error_cb": self._note}
        try:
            return self._kafka.Producer(settings)
        except self._kafka.KafkaException as error:
            # Only settings can be wrong here; of the library's words those with the password are none.
            raise DestinationMisconfigured(f"{self._destination.name}: {_told(error.args[0])}") from None

    def _note(self, error: KafkaError) -> None:
        self._errors.add(error.name())

    def _deliver(self, producer: Producer, message: bytes, envelope: Envelope) -> Answer:
        answers: list[Answer] = []
        names = self._profile.headers
        producer.produce(
            self._topic(message, envelope),
            value=message,
            key=envelope.study_uid.encode(),
            headers=[
                (names.document_id, envelope.document_id.encode()),
                (names.version, str(envelope.version).encode()),
            ],
            on_delivery=lambda error, sent: answers.append(_reported(error, sent)),
        )
        producer.flush(self._destination.response_timeout_s + _MARGIN_S)
        return answers[0] if answers else Retry(reason=f"{_UNREACHED} (silence)")

    def _topic(self, message: bytes, envelope: Envelope) -> str:
        """By the message where it is a report: one of which the model decided nothing is an error, too."""
        is_result = envelope.kind is DocumentKind.REPORT and not is_error(message, self._profile)
        return self._profile.topics.result if is_result else self._profile.topics.error


def judge(error: KafkaError) -> Answer:
    """What an error of a message means: refused where it is the message's own, else it is sent again.

    Topics can be created, permissions given and brokers repaired, so none of these ends a document.
    """
    told = _told(error)
    return Refused(reason=told) if error.name() in _MESSAGE_FAULTS else Retry(reason=told)


def _told(error: KafkaError) -> str:
    """The library's name of the error and what to do; none of the brokers' own words."""
    name = error.name()
    remedy = _MESSAGE_FAULTS.get(name) or _REMEDIES.get(name) or "the brokers did not take the message: see their log"
    return f"{remedy} ({name})"


def _reported(error: KafkaError | None, sent: Message) -> Answer:
    if error is not None:
        return judge(error)
    return Accepted(receiver_ids=(f"{sent.topic()}/{sent.partition()}/{sent.offset()}",))


def _settings(destination: KafkaDestination) -> dict[str, Any]:
    """librdkafka's configuration: every broker in sync must have a message before it counts as delivered."""
    connect_ms = int(destination.connect_timeout_s * _MS)
    delivery_ms = int(destination.response_timeout_s * _MS)
    return {
        "bootstrap.servers": ",".join(destination.bootstrap_servers),
        "client.id": destination.client_id,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 0,  # one message at a time: there is no batch to wait for
        "partitioner": "murmur2_random",  # as Kafka's own producers: a key keeps its partition, and so its order
        "message.timeout.ms": delivery_ms,
        "topic.metadata.propagation.max.ms": min(connect_ms, delivery_ms),
        "socket.connection.setup.timeout.ms": max(connect_ms, _LEAST_CONNECT_MS),
        "reconnect.backoff.max.ms": 1000,
        "log_level": 0,  # what goes wrong is in the answers
        "enable.metrics.push": False,  # nothing is told to brokers that was not asked for here
        **_security(destination),
    }


def _security(destination: KafkaDestination) -> dict[str, Any]:
    tls, has_user = destination.tls, destination.username is not None
    protocol = ("SASL_" if has_user else "") + ("PLAINTEXT" if tls is None else "SSL")
    given: dict[str, Any] = {"security.protocol": protocol}
    if tls is not None:
        key_file = tls.key_file or tls.certificate_file
        files = {
            "ssl.ca.location": tls.ca_file,
            "ssl.certificate.location": tls.certificate_file,
            "ssl.key.location": key_file,
        }
        given |= {key: str(path) for key, path in files.items() if path is not None}
    if has_user:
        given |= {
            "sasl.mechanism": destination.sasl_mechanism,
            "sasl.username": destination.username,
            "sasl.password": read_secret(destination.password_env, destination.password_file),
        }
    return given
