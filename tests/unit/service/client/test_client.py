"""The Python client: a submission creates one job, broken connections are resumed, files are complete or absent."""

import hashlib
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.client import ApiError, Client, ConnectionFailed, CorruptDownload, NotNormlab
from service.jobs import JobRequest
from service.local.private_ray import free_port
from tests.unit.service.stand_in import CUT, Answer, Request, StandIn, a_job, file_server, problem, running, stream

REQUEST = {"normalization": {"type": "group"}, "batch_size": 2}
WEIGHTS = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FILE = "/v1/checkpoints/c1/files/model.safetensors"
CHECKPOINT = {
    "id": "c1",
    "files": [{"name": "model.safetensors", "size": len(WEIGHTS), "sha256": SHA256, "url": FILE}],
}


@pytest.fixture
def service() -> Iterator[StandIn]:
    with running() as service:
        yield service


@pytest.fixture
def client(service: StandIn) -> Iterator[Client]:
    with Client(service.url, backoff_s=0.001, retry_s=2, patience_s=2) as client:
        yield client


class TestAddress:
    def test_comes_from_the_environment_unless_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("NORMLAB_URL", raising=False)
        assert Client().base_url == "http://127.0.0.1:8000"
        monkeypatch.setenv("NORMLAB_URL", "http://lab:1/")
        assert Client().base_url == "http://lab:1"
        assert Client("http://other:2").base_url == "http://other:2"

    @pytest.mark.parametrize("url", ["lab:8000", "ftp://lab", "http://", "http://lab/?token=x", "http://lab/#jobs"])
    def test_that_is_none_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="address of the service"):
            Client(url)

    def test_where_nothing_listens_is_named_with_what_to_do(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        with Client(url, retry_s=0) as client, pytest.raises(ConnectionFailed) as error:
            client.job("job_1")
        assert str(error.value).startswith(f"No service can be reached at {url} (connection refused). Start one with")

    def test_of_another_server_is_noticed(self, service: StandIn, client: Client) -> None:
        service.on("GET", "/v1/jobs/job_1", Answer(b"<html>"))
        with pytest.raises(NotNormlab, match="is not a normlab service"):
            client.job("job_1")

    def test_on_this_machine_is_never_reached_through_a_proxy(
        self, service: StandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
        service.on("GET", "/v1/cluster", Answer({"slots": {}}))
        assert Client(service.url).cluster() == {"slots": {}}


class TestRequests:
    def test_carry_the_token(self, service: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        service.on("GET", "/v1/jobs/job_1", Answer(a_job()))
        Client(service.url, "secret-of-mine").job("job_1")
        monkeypatch.setenv("NORMLAB_TOKEN", "from-outside")
        Client(service.url).job("job_1")
        sent = [request.headers["authorization"] for request in service.requests]
        assert sent == ["Bearer secret-of-mine", "Bearer from-outside"]

    @pytest.mark.parametrize("trouble", [CUT, problem(503, "away"), problem(502, "")], ids=["cut", "503", "502"])
    def test_are_repeated_while_the_service_is_away(self, service: StandIn, client: Client, trouble: Answer) -> None:
        service.on("GET", "/v1/jobs/job_1", trouble, trouble, Answer(a_job()))
        assert client.job("job_1") == a_job()

    def test_end_with_what_the_service_said_when_it_stays_away(self, service: StandIn, client: Client) -> None:
        service.on("GET", "/v1/jobs/job_1", problem(503, "The database does not answer."))
        with pytest.raises(ApiError, match=r"The database does not answer\."):
            client.job("job_1")

    def test_that_are_refused_are_not_repeated(self, service: StandIn, client: Client) -> None:
        service.on("POST", "/v1/jobs/job_1/cancel", problem(409, "Job job_1 has succeeded and cannot be cancelled."))
        with pytest.raises(ApiError) as error:
            client.cancel("job_1")
        assert (error.value.status, str(error.value)) == (409, "Job job_1 has succeeded and cannot be cancelled.")
        assert error.value.request_id == "r1"
        assert len(service.requests) == 1

    def test_with_invalid_fields_name_each(self, service: StandIn, client: Client) -> None:
        errors = [{"pointer": "/epochs", "detail": "epochs is 0"}, {"parameter": "sort", "detail": "sort is x"}]
        service.on("POST", "/v1/jobs", problem(422, "2 fields are not valid.", errors=errors))
        with pytest.raises(ApiError) as error:
            client.submit(REQUEST)
        assert str(error.value) == "/epochs: epochs is 0\nsort: sort is x"

    def test_a_refusal_that_is_no_problem_document_still_says_something(self, service: StandIn, client: Client) -> None:
        service.on("GET", "/v1/jobs/job_1", Answer(b"<h1>Teapot</h1>", 418))
        with pytest.raises(ApiError, match="HTTP 418"):
            client.job("job_1")


class TestSubmission:
    def test_that_is_repeated_carries_the_same_key(self, service: StandIn, client: Client) -> None:
        service.on("POST", "/v1/jobs", CUT, problem(503, ""), Answer(a_job(), 201))
        client.submit(REQUEST)
        keys = {request.headers["idempotency-key"] for request in service.requests}
        assert len(service.requests) == 3
        assert len(keys) == 1

    def test_has_a_key_of_its_own_each_time(self, service: StandIn, client: Client) -> None:
        service.on("POST", "/v1/jobs", Answer(a_job(), 201))
        client.submit(REQUEST)
        client.submit(REQUEST)
        client.submit(REQUEST, "mine")
        keys = [request.headers["idempotency-key"] for request in service.requests]
        assert len(set(keys)) == 3
        assert keys[2] == "mine"

    def test_takes_a_request_that_was_checked_before(self, service: StandIn, client: Client) -> None:
        service.on("POST", "/v1/jobs", Answer(a_job(), 201))
        client.submit(JobRequest.model_validate(REQUEST))
        sent = service.requests[0].body
        assert sent["batch_size"] == 2
        assert JobRequest.model_validate(sent) == JobRequest.model_validate(REQUEST)


class TestDeletion:
    def test_whose_answer_was_lost_is_not_an_error(self, service: StandIn, client: Client) -> None:
        service.on("DELETE", "/v1/jobs/job_1", CUT, problem(404, "There is no job 'job_1'."))
        client.delete("job_1")

    def test_of_what_never_was_is_one(self, service: StandIn, client: Client) -> None:
        service.on("DELETE", "/v1/jobs/job_1", problem(404, "There is no job 'job_1'."))
        with pytest.raises(ApiError, match="There is no job"):
            client.delete("job_1")


class TestLists:
    def test_are_followed_page_after_page(self, service: StandIn, client: Client) -> None:
        first = Answer({"data": [a_job(id="job_3"), a_job(id="job_2")], "next_cursor": "c"})
        service.on("GET", "/v1/jobs", first, Answer({"data": [a_job(id="job_1")], "next_cursor": None}))
        found = client.jobs(status=["queued", "running"], label={"study": "paper"}, model=None)
        assert [job["id"] for job in found] == ["job_3", "job_2", "job_1"]
        assert service.requests[0].query == {"status": ["queued", "running"], "label": ["study:paper"]}
        assert service.requests[1].query["cursor"] == ["c"]

    def test_end_where_enough_was_asked_for(self, service: StandIn, client: Client) -> None:
        service.on("GET", "/v1/jobs", Answer({"data": [a_job(), a_job()], "next_cursor": "c"}))
        assert len(list(client.jobs(max_jobs=2))) == 2
        assert [request.query for request in service.requests] == [{"limit": ["2"]}]

    def test_of_logs_go_on_after_the_last_line(self, service: StandIn, client: Client) -> None:
        lines = [{"id": 7, "message": "a"}, {"id": 9, "message": "b"}]
        pages = [
            Answer({"data": [line], "next_cursor": cursor}) for line, cursor in zip(lines, ["7", None], strict=True)
        ]
        service.on("GET", "/v1/jobs/job_1/logs", *pages)
        assert list(client.logs("job_1", after=3, level=["error"])) == lines
        assert [request.query["after"] for request in service.requests] == [["3"], ["7"]]


class TestEvents:
    PATH = "/v1/jobs/job_1/events"
    END = ("", "end", {"status": "succeeded"})

    def test_go_on_after_the_last_one_when_the_connection_breaks(self, service: StandIn, client: Client) -> None:
        service.on(
            "GET",
            self.PATH,
            stream(("1", "status", {"status": "queued"}), ("2", "started", {"step": 0}), announced=10_000),
            CUT,
            problem(503, ""),
            stream(("", "progress", {"step": 5}), ("3", "metrics", {"step": 9}), self.END),
        )
        events = list(client.events("job_1"))
        assert [event.type for event in events] == ["status", "started", "progress", "metrics", "end"]
        assert [request.headers.get("last-event-id") for request in service.requests] == [None, "2", "2", "2"]

    def test_without_an_id_do_not_move_where_the_stream_goes_on(self, service: StandIn, client: Client) -> None:
        broken = stream(("4", "log", {}), ("", "progress", {}), announced=10_000)
        service.on("GET", self.PATH, broken, stream(self.END))
        list(client.events("job_1", after=3))
        assert [request.headers["last-event-id"] for request in service.requests] == ["3", "4"]

    def test_a_stream_that_ends_too_soon_is_taken_up_again(self, service: StandIn, client: Client) -> None:
        service.on("GET", self.PATH, stream(("1", "log", {"n": 1})), stream(("2", "log", {"n": 2}), self.END))
        assert [event.data for event in client.events("job_1")][:2] == [{"n": 1}, {"n": 2}]

    def test_begin_anew_where_the_service_does_not_know_the_last_one(self, service: StandIn, client: Client) -> None:
        service.on(
            "GET",
            self.PATH,
            stream(("7", "log", {"n": 7})),
            stream(("0", "reset", {"unknown": 7}), ("", "progress", {})),
            stream(("1", "log", {"n": 1}), self.END),
        )
        assert [event.type for event in client.events("job_1")] == ["log", "reset", "progress", "log", "end"]
        assert [request.headers.get("last-event-id") for request in service.requests] == [None, "7", "0"]

    def test_are_given_up_when_nothing_answers_for_long(self, service: StandIn, client: Client) -> None:
        service.on("GET", self.PATH, stream(("1", "log", {})), CUT)
        with pytest.raises(ConnectionFailed):
            list(client.events("job_1"))

    def test_of_no_job_are_refused_at_once(self, service: StandIn, client: Client) -> None:
        with pytest.raises(ApiError, match="There is nothing"):
            list(client.events("job_1"))
        assert len(service.requests) == 1

    def test_end_a_wait_with_the_job(self, service: StandIn, client: Client) -> None:
        service.on("GET", self.PATH, stream(self.END))
        service.on("GET", "/v1/jobs/job_1", Answer(a_job(status="succeeded")))
        assert client.wait("job_1")["status"] == "succeeded"

    def test_that_do_not_end_in_time_leave_the_job_running(self, service: StandIn, client: Client) -> None:
        service.on("GET", self.PATH, stream(("1", "log", {})))
        with pytest.raises(TimeoutError, match="keeps running"):
            client.wait("job_1", timeout_s=0.05)


class TestDownload:
    @pytest.fixture(autouse=True)
    def checkpoint(self, service: StandIn) -> None:
        service.on("GET", "/v1/checkpoints/c1", Answer(CHECKPOINT))
        service.on("GET", "/v1/jobs/job_1/checkpoints/best", Answer(CHECKPOINT))
        service.on("GET", FILE, file_server(WEIGHTS, SHA256))

    def test_brings_the_best_checkpoint_of_a_job(self, client: Client, tmp_path: Path) -> None:
        told: list[tuple[int, int]] = []
        path = client.download(
            ("job_1", "best"), "model.safetensors", tmp_path, lambda done, size: told.append((done, size))
        )
        assert path == tmp_path / "model.safetensors"
        assert path.read_bytes() == WEIGHTS
        assert told[0] == (0, len(WEIGHTS))
        assert told[-1] == (len(WEIGHTS), len(WEIGHTS))

    def test_goes_on_where_it_broke(self, service: StandIn, client: Client, tmp_path: Path) -> None:
        service.on("GET", FILE, file_server(WEIGHTS, SHA256, cut_after=100_000))
        path = client.download("c1", "model.safetensors", tmp_path / "w")
        assert path.read_bytes() == WEIGHTS
        ranges = [request.headers.get("range") for request in service.to("GET", FILE)]
        assert ranges == [None, "bytes=100000-", "bytes=200000-"]

    def test_of_several_to_one_path_at_the_same_time_all_succeed(self, service: StandIn, tmp_path: Path) -> None:
        all_are_here = threading.Barrier(3, timeout=60)
        whole = file_server(WEIGHTS, SHA256)

        def together(request: Request) -> Answer:
            all_are_here.wait()
            return whole(request)

        service.on("GET", FILE, together)

        def download(_: int) -> bytes:
            with Client(service.url) as client:
                return client.download("c1", "model.safetensors", tmp_path / "w").read_bytes()

        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(download, range(3))) == [WEIGHTS] * 3
        assert [path.name for path in tmp_path.iterdir()] == ["w"]

    def test_through_a_pipe_or_a_link_arrives_there(self, client: Client, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("there")
        client.download("c1", "model.safetensors", tmp_path / "link")
        assert (tmp_path / "there").read_bytes() == WEIGHTS
        os.mkfifo(tmp_path / "pipe")
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit((tmp_path / "pipe").read_bytes)
            client.download("c1", "model.safetensors", tmp_path / "pipe")
            assert reading.result() == WEIGHTS

    def test_goes_on_where_an_earlier_one_gave_up(self, service: StandIn, client: Client, tmp_path: Path) -> None:
        service.on("GET", FILE, file_server(WEIGHTS, SHA256, cut_after=1000), CUT)
        with pytest.raises(ConnectionFailed, match="and the next download resumes there"):
            client.download("c1", "model.safetensors", tmp_path / "w")
        assert not (tmp_path / "w").exists()
        service.on("GET", FILE, file_server(WEIGHTS, SHA256))
        assert client.download("c1", "model.safetensors", tmp_path / "w").read_bytes() == WEIGHTS
        assert service.requests[-1].headers["range"] == "bytes=1000-"
        assert [path.name for path in tmp_path.iterdir()] == ["w"]

    @pytest.mark.parametrize("left", [b"of another file", b"x" * len(WEIGHTS), b"x" * (len(WEIGHTS) + 1)])
    def test_starts_again_where_the_part_was_of_another_file(self, client: Client, tmp_path: Path, left: bytes) -> None:
        (tmp_path / "w.part").write_bytes(left)
        assert client.download("c1", "model.safetensors", tmp_path / "w").read_bytes() == WEIGHTS

    def test_takes_the_whole_file_from_a_server_without_ranges(
        self, service: StandIn, client: Client, tmp_path: Path
    ) -> None:
        (tmp_path / "w.part").write_bytes(WEIGHTS[:500])
        service.on("GET", FILE, Answer(WEIGHTS))
        assert client.download("c1", "model.safetensors", tmp_path / "w").read_bytes() == WEIGHTS

    def test_of_damaged_bytes_leaves_nothing(self, service: StandIn, client: Client, tmp_path: Path) -> None:
        service.on("GET", FILE, file_server(WEIGHTS[:-1] + b"!", SHA256))
        with pytest.raises(CorruptDownload, match="does not match its sha256"):
            client.download("c1", "model.safetensors", tmp_path / "w")
        assert list(tmp_path.iterdir()) == []

    def test_of_an_unknown_file_names_those_there_are(self, client: Client, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no file 'weights': it has model\.safetensors"):
            client.download("c1", "weights", tmp_path)

    def test_of_a_file_that_the_service_refuses_says_why(
        self, service: StandIn, client: Client, tmp_path: Path
    ) -> None:
        service.on("GET", FILE, problem(500, "The file no longer matches its sha256."))
        with pytest.raises(ApiError, match="no longer matches"):
            client.download("c1", "model.safetensors", tmp_path / "w")
