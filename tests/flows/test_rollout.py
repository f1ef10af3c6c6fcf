"""A rollout without a cluster: what is asked of Serve when the next version does not come up."""

import json

import httpx
import pytest

from flows.deployed.serve import served
from flows.forms.serve import ServeForm
from flows.forms.where import Where
from flows.rollout import NotServed

BEFORE = {"name": "emo", "route_prefix": "/", "import_path": "an:earlier_one"}
OTHERS = {"name": "search", "route_prefix": "/search", "import_path": "of:somebody_else"}
FORM = ServeForm(model="s3://films/model", folder="/shared/jobs")
WHERE = Where(cluster="http://head:8265", notes="/shared/notes")


@pytest.fixture
def told(monkeypatch):
    """(configurations that Serve was given, what it answers when it is asked)."""
    configured, answers = [], []

    def serve(request):
        if request.method == "PUT":
            configured.append(json.loads(request.content)["applications"])
            return httpx.Response(200)
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return httpx.Response(200, json={"applications": answer})

    made = httpx.Client
    monkeypatch.setattr("flows.rollout.httpx.Client", lambda **what: made(**what, transport=httpx.MockTransport(serve)))
    monkeypatch.setattr("flows.rollout.time.sleep", lambda seconds: None)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a token")
    answers.append({app["name"]: {"deployed_app_config": app} for app in (BEFORE, OTHERS)})
    return configured, answers


def says(status, message=""):
    return {"emo": {"status": status, "message": message}}


def test_who_does_not_answer_once_is_asked_again(told):
    configured, answers = told
    answers += [says("DEPLOYING"), httpx.ConnectError("away"), says("RUNNING")]
    assert served(FORM, WHERE)["model"] == "s3://films/model"
    ((new, others),) = configured
    assert others == OTHERS and new["args"]["models"] == {"default": "s3://films/model"}


def test_what_ran_before_comes_back_where_the_next_does_not_come_up(told):
    configured, answers = told
    answers += [says("DEPLOYING"), says("DEPLOY_FAILED", "a file is cut short")]
    with pytest.raises(NotServed, match=r"what ran before is back\. Ray says: DEPLOY_FAILED a file is cut short"):
        served(FORM, WHERE)
    assert configured[-1] == [BEFORE, OTHERS] and len(configured) == 2


def test_what_ran_before_comes_back_where_the_run_is_cancelled(told):
    configured, answers = told
    answers += [says("DEPLOYING"), KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        served(FORM, WHERE)
    assert configured[-1] == [BEFORE, OTHERS]
