"""What nobody fills into a form: keys and tokens, from the environment or from Prefect's blocks."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.settings import get_current_settings
from pydantic import Field, SecretStr

from emo_data.errors import UserError
from flows.forms.where import Where

_one_at_a_time = Lock()
"""A runner stops the jobs of several cancelled runs in threads, and they have one environment."""


class ObjectStore(Block):
    """The keys of a store that speaks S3, as the AWS variables would have them."""

    _block_type_name = "EMO object store"
    _block_type_slug = "emo-object-store"
    _description = "Keys for datasets, runs and models in a store that speaks S3."

    access_key_id: SecretStr = Field(title="Access key", description="AWS_ACCESS_KEY_ID")
    secret_access_key: SecretStr = Field(title="Secret key", description="AWS_SECRET_ACCESS_KEY")
    endpoint_url: str | None = Field(None, title="Address", description="AWS_ENDPOINT_URL; empty: Amazon's.")
    region: str | None = Field(None, title="Region", description="AWS_DEFAULT_REGION")

    def environment(self) -> dict[str, str]:
        """The variables that clients read."""
        named = {
            "AWS_ACCESS_KEY_ID": self.access_key_id.get_secret_value(),
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key.get_secret_value(),
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": self.region,
        }
        return {name: value for name, value in named.items() if value}


@contextmanager
def store_keys(where: Where) -> Iterator[dict[str, str]]:
    """The keys that were named, in the environment while the block runs. UserError where there is no such block."""
    if not where.credentials:
        yield {}
        return
    try:
        block = ObjectStore.load(where.credentials)
    except ValueError as error:
        raise UserError(f"Object store {where.credentials}: there is no block of this name; make one") from error
    assert isinstance(block, ObjectStore)  # and no coroutine: nothing here is
    with _one_at_a_time, _environment(block.environment()) as keys:
        yield keys


@contextmanager
def _environment(keys: dict[str, str]) -> Iterator[dict[str, str]]:
    before = {name: os.environ.get(name) for name in keys}
    os.environ.update(keys)
    _forget_connections()
    try:
        yield keys
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
        _forget_connections()


def _forget_connections() -> None:
    """Else one goes on with the keys that it was made with. A client that nobody has imported has none."""
    if client := sys.modules.get("s3fs"):
        client.S3FileSystem.clear_instance_cache()


def ray_token() -> str | None:
    """As Ray itself finds it: RAY_AUTH_TOKEN, the file RAY_AUTH_TOKEN_PATH; else the block ray-token."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    told = os.environ.get("RAY_AUTH_TOKEN") or (Path(path).read_text().strip() if path else None)
    return told or _block("ray-token")


def service_token() -> str | None:
    """EMO_TOKEN, else the block emo-token."""
    return os.environ.get("EMO_TOKEN") or _block("emo-token")


def _block(name: str) -> str | None:
    if not get_current_settings().api.url:  # a plain call, of which no server knows
        return None
    try:
        block = Secret.load(name)
    except ValueError:  # Prefect's word for a block that is not there
        return None
    assert isinstance(block, Secret)
    return str(block.get())
