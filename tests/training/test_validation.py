"""With the same weights, any number of processes finds the very losses and metrics of one, to the last bit."""

import json

import pytest
from test_distributed import imported

script = imported("validation_script")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return json.loads(json.dumps(script.main(tmp_path_factory.mktemp("alone"))))
