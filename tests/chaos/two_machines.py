"""The walk through two machines where both are the loopback, as where a system parts no networks."""

from tests.infra.test_two_machines import check_walk


def test_the_walk_on_the_loopback(tmp_path):
    check_walk(tmp_path, {"EMO_TOGETHER": "1"})
