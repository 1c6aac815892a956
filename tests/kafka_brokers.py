"""Kafka brokers of librdkafka's own making: they speak the real protocol on loopback, go away and refuse as told.

The client's library carries them (rdkafka_mock.h); its Python binding opens them but cannot take them down, so they are
driven through the C functions that the binding's own library exports.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

PRODUCE = 0  # API key of a produce request
_PRODUCER = 0
_DEADLINE_S = 20.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A message as a consumer reads it."""

    topic: str
    partition: int
    offset: int
    key: str
    value: bytes
    headers: dict[str, str]


class Brokers:
    """A cluster, from entry to exit of the context, with the topics of the exchange."""

    def __init__(self, count: int = 1, *, topics: tuple[str, ...] = ("DICOMREPORTNOTIFY", "PUMCONSUMERERROR")) -> None:
        self._library = _library()
        self._count = count
        self._topics = topics

    def __enter__(self) -> Self:
        quiet = self._library.rd_kafka_conf_new()
        failure = ctypes.create_string_buffer(512)
        self._library.rd_kafka_conf_set(quiet, b"log_level", b"0", failure, len(failure))
        self._host = self._library.rd_kafka_new(_PRODUCER, quiet, failure, len(failure))
        assert self._host, failure.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._host, self._count)
        for topic in self._topics:
            self.create(topic)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._host)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of each broker, as ``host:port``."""
        found: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return tuple(found.decode().split(","))

    def create(self, topic: str, partitions: int = 3) -> None:
        """Create a topic, kept by every broker."""
        assert not self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, self._count)

    def fail_topic(self, topic: str, error: int) -> None:
        """Answer every question about a topic with an error."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), error)

    def answer_produce(self, *errors: int) -> None:
        """Answer the next produce requests with these errors, then as before; 0 is success."""
        listed = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, PRODUCE, len(errors), listed)

    def go_down(self) -> None:
        """Close all connections and refuse new ones, on ports that stay."""
        for broker in range(1, self._count + 1):
            self._library.rd_kafka_mock_broker_set_down(self._cluster, broker)

    def come_up(self) -> None:
        """Take connections again; nothing is forgotten."""
        for broker in range(1, self._count + 1):
            self._library.rd_kafka_mock_broker_set_up(self._cluster, broker)

    def slow_down(self, milliseconds: int) -> None:
        """Answer every request only after so long."""
        for broker in range(1, self._count + 1):
            self._library.rd_kafka_mock_broker_set_rtt(self._cluster, broker, milliseconds)

    def name_elsewhere(self, host: str, port: int) -> None:
        """Name another address to clients, as advertised listeners do."""
        self._library.rd_kafka_mock_broker_set_host_port(self._cluster, 1, host.encode(), port)

    def read(self, topic: str, count: int) -> list[Received]:
        """Read `count` messages with a consumer of its own; within a partition in their order."""
        return list(self._read(topic, count))

    def _read(self, topic: str, count: int) -> Iterator[Received]:
        settings = {
            "bootstrap.servers": ",".join(self.addresses),
            "group.id": "tests",
            "log_level": 0,
            "fetch.wait.max.ms": 20,
        }
        consumer = Consumer(settings)
        try:
            partitions = consumer.list_topics(topic, timeout=_DEADLINE_S).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            for _ in range(count):
                found = consumer.poll(_DEADLINE_S)
                assert found is not None and found.error() is None, "fewer messages than expected"
                yield Received(
                    topic=found.topic(),
                    partition=found.partition(),
                    offset=found.offset(),
                    key=found.key().decode(),
                    value=found.value(),
                    headers={name: value.decode() for name, value in found.headers() or []},
                )
            assert consumer.poll(0.5) is None, "more messages than expected"
        finally:
            consumer.close()


def _library() -> ctypes.CDLL:
    """The library that the binding brings with it; loading it a second time gives the same one."""
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    library = ctypes.CDLL(str(next(folder.glob("librdkafka*.so*"))))
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (ctypes.c_int, [pointer, text, text, text, size]),
        "rd_kafka_new": (pointer, [ctypes.c_int, pointer, text, size]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, ctypes.c_int]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (ctypes.c_int, [pointer, text, ctypes.c_int, ctypes.c_int]),
        "rd_kafka_mock_topic_set_error": (None, [pointer, text, ctypes.c_int]),
        "rd_kafka_mock_broker_set_down": (ctypes.c_int, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (ctypes.c_int, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_rtt": (ctypes.c_int, [pointer, ctypes.c_int32, ctypes.c_int]),
        "rd_kafka_mock_broker_set_host_port": (None, [pointer, ctypes.c_int32, text, ctypes.c_int]),
        "rd_kafka_mock_push_request_errors_array": (None, [pointer, ctypes.c_int16, size, pointer]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
