"""Jobs and the service on a Ray cluster that asks for a token."""

import httpx
import pytest

from emo_data.errors import UserError
from emo_data.synthetic import write_trial
from emo_data.video import probe
from flows.deployed.ingest import ingest
from flows.forms.ingest import IngestForm
from flows.forms.where import Where
from flows.launch.ray_jobs import RayJobs
from flows.notes import Notes
from tests.emo_data.kills import content
from tests.flows.cluster import Cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """`ray start --head` on the loopback, with a token."""
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    assert started.end() == []


@pytest.fixture(scope="module")
def token_block(served, cluster):
    """The cluster's token, where the flows find it: nobody types it into a form."""
    served.block("secret", "ray-token", {"value": cluster.token})


def test_without_its_token_a_cluster_does_nothing(cluster, asked, tmp_path):
    assert httpx.get(f"{cluster.url}/api/jobs/").status_code == 401
    form = IngestForm.model_validate({**asked, "out": str(tmp_path / "data"), "workers": 0})
    with pytest.raises(UserError, match="wants another token"):
        ingest.fn(form, Where(notes=str(tmp_path / "jobs"), cluster=cluster.url))
    assert cluster.jobs() == {}


@pytest.mark.usefixtures("token_block")
def test_a_job_on_a_cluster_is_cancelled_and_tried_again(served, cluster, long_asked, long_data, tmp_path):
    out = str(tmp_path / "data")
    run = served.start("ingest", {**long_asked, "out": out, "workers": 1}, cluster=cluster.url, code="upload")
    job = f"emo-ingest-{run}"

    def begun():
        now = Notes(served.jobs, job).progress()
        return now and now.phase == "ingest" and now.done

    served.until(begun, 600)
    assert served.cancel(run) < 30
    assert cluster.jobs()[job] == "STOPPED"
    served.retry(run)
    served.completed(run)
    assert content(out) == content(long_data)
    assert cluster.jobs() == {job: "SUCCEEDED"}
    shown = served.artifacts(run)
    assert f"{cluster.url}/#/jobs/{job}" in shown["ingest-places"]["data"]
    assert cluster.token not in str(shown) + served.logs(run)


def test_who_asks_again_finds_the_job_and_a_job_that_is_gone_is_not_taken_for_running(cluster):
    jobs = RayJobs(cluster.url, cluster.token)
    assert jobs.status("emo-ingest-never")[0] == "unknown"
    jobs.stop("emo-ingest-never")  # what is not there is stopped
    assert jobs.logs("emo-ingest-never", 0) == ("", 0)


def test_a_cluster_that_is_away_is_waited_for(monkeypatch):
    answers = iter([httpx.ConnectError("away"), httpx.Response(502), httpx.Response(200, json={"status": "RUNNING"})])

    def ask(request):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("flows.launch.ray_jobs.time.sleep", lambda seconds: None)
    jobs = RayJobs("http://127.0.0.1:1", None)
    jobs._http = httpx.Client(base_url="http://127.0.0.1:1", transport=httpx.MockTransport(ask))
    assert jobs.status("emo-ingest-x")[0] == "running"


def test_a_model_goes_into_service_makes_a_batch_and_stays_where_the_next_is_none(
    served, cluster, token_block, serviceable, tmp_path
):
    endpoint, what = cluster.endpoint, cluster.service_form(serviceable, tmp_path / "jobs")
    run = served.start("serve", what, cluster=cluster.url)
    served.completed(run, 900)
    head = {"Authorization": f"Bearer {cluster.service_token}"}
    assert [one["id"] for one in httpx.get(f"{endpoint}/v1/models", headers=head).json()] == ["default"]

    served.block("secret", "emo-token", {"value": cluster.service_token})
    write_trial(tmp_path, seconds=1, size=128)
    rows = "".join(f"{name},portrait.png,voice.wav,1\n" for name in ("one", "other"))
    (tmp_path / "wanted.csv").write_text(f"name,portrait,audio,steps\n{rows}")
    batch = {"endpoint": endpoint, "manifest": str(tmp_path / "wanted.csv"), "out": str(tmp_path / "batch")}
    made = served.start("generate", batch)
    none = served.start("serve", {**what, "model": str(tmp_path / "none"), "name": "bad"}, cluster=cluster.url)
    served.completed(made)
    assert all(len(probe(tmp_path / f"batch/{name}.mp4").times) == 25 for name in ("one", "other"))
    shown = served.artifacts(made)
    assert '{"what": "done", "how many": 2.0}' in shown["generate-counts"]["data"]
    assert shown["generate-preview"]["data"].startswith("data:image/png;base64,")
    assert cluster.service_token not in str(shown) + served.logs(made)

    state = served.ended(none, 900)
    assert state["type"] == "FAILED" and "what ran before is back" in state["message"]
    assert f"{tmp_path / 'none'}: not an EMO model" in state["message"]
    assert [one["id"] for one in httpx.get(f"{endpoint}/v1/models", headers=head).json()] == ["default"]
