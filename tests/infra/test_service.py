"""The files for clusters, as far as they can be proven without one."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import HTTPOptionsSchema, LoggingConfig, ServeApplicationSchema, ServeDeploySchema

from emo_core.serving.inspector import Models
from emo_core.serving.on_ray import Settings, build
from emo_data.errors import UserError
from flows.forms.serve import ServeForm
from flows.rollout import application

SERVICE = Path(__file__).parents[2] / "infra" / "serve" / "service.yaml"


def check_service(text: str) -> Settings:
    """Every key is one that Ray Serve or the application knows; Serve itself would read over another."""
    told = yaml.safe_load(text)
    _known(ServeDeploySchema, told)
    _known(HTTPOptionsSchema, told["http_options"])
    _known(LoggingConfig, told["logging_config"])
    (application,) = ServeDeploySchema.model_validate(told).applications
    _known(ServeApplicationSchema, told["applications"][0])
    module, name = application.import_path.split(":")
    assert getattr(import_module(module), name) is build
    return Settings.model_validate(application.args)


def _known(schema: type[BaseModel], told: dict) -> None:
    unknown = told.keys() - schema.model_fields.keys()
    assert not unknown, f"{schema.__name__} knows no {unknown}"


def test_the_service_is_described_as_serve_and_we_understand_it(monkeypatch):
    settings = check_service(SERVICE.read_text())
    assert not settings.open_to_all
    assert yaml.safe_load(SERVICE.read_text())["http_options"]["host"] == "127.0.0.1"
    with pytest.raises(UserError, match="/shared/emo/model: not an EMO model"):
        build(settings)
    monkeypatch.setattr(Models, "read", lambda folders: None)  # as where the cluster's disk is
    build(settings)


def test_the_flow_deploys_the_same_application():
    (told,) = yaml.safe_load(SERVICE.read_text())["applications"]
    args = told["args"]
    form = ServeForm(model=args["models"]["default"], folder=args["folder"], device=args["device"])
    ours = application(form)
    assert ours.keys() == told.keys() and ours["args"].items() <= args.items()
    assert {**told, "args": ours["args"]} == ours


@pytest.mark.parametrize(
    "typo",
    [
        ("proxy_location", "proxy_locations"),
        ("  port:", "  prot:"),
        ("encoding", "encodings"),
        ("import_path", "import_paths"),
        (":build", ":built"),
        ("most_makers", "max_makers"),
        ("queue: 256", "queue: -1"),
        ("keep_seconds", "keep_second"),
    ],
)
def test_a_typo_is_found(typo):
    text = SERVICE.read_text()
    assert typo[0] in text
    with pytest.raises((AssertionError, ValidationError, AttributeError)):
        check_service(text.replace(*typo))
