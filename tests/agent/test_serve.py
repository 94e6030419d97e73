"""The HTTP face, with a desk that has a defect."""

import http.client
import threading
from contextlib import closing

import pytest

from agent.serve import Server


class Desk:
    def metrics(self) -> bytes:
        raise KeyError("what nobody foresaw")

    def faults(self, cursor: str | None, limit: int) -> bytes:
        return b"{}\n"

    def health(self) -> str | None:
        return None


def test_a_defect_in_one_answer_is_told_to_the_client_and_the_log(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(("127.0.0.1", 0), Desk())
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)) as connection:
            answers = []
            for path in ("/metrics", "/healthz", "/v1/faults"):
                connection.request("GET", path)
                answer = connection.getresponse()
                answers.append((answer.status, answer.read()))
    finally:
        server.stop()
        thread.join()
    assert answers == [(500, b"a defect of flipwatch; the agent's log says more\n"), (200, b"ok\n"), (200, b"{}\n")]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "/metrics can't be answered" in record.getMessage() and "what nobody foresaw" in str(record.exc_info)
