"""Places that a form cannot take."""

import pytest

from flows.forms.evaluate import EvaluateForm
from flows.forms.generate import GenerateForm
from flows.forms.proof import ProofForm


@pytest.mark.parametrize(
    ("form", "given"),
    [
        (GenerateForm, {"manifest": "m.csv", "out": "s3://films/batch"}),
        (GenerateForm, {"manifest": "s3://films/m.csv", "out": "batch"}),
        (EvaluateForm, {"generated": "s3://films/made", "out": "report"}),
        (ProofForm, {"out": "s3://films/proof"}),
    ],
)
def test_what_must_be_on_a_disk_is_not_the_address_of_a_store(form, given):
    with pytest.raises(ValueError, match="must be on a disk"):
        form.model_validate(given)
