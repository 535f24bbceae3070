"""The image drafts captions: what tags need is in it."""

from tests.image.conftest import Engine


def test_the_tagger_has_its_runtime(engine: Engine) -> None:
    find = (
        "import os; from tenner.pipeline.drafting import python_for;"
        "print(python_for('wd14', os.environ))"
    )
    done = engine.run("/opt/tenner/bin/python", "-c", find)
    assert done.code == 0, done.output
    assert "/opt/tenner/bin/python" in done.output
    infer = "import onnxruntime as o; print(o.__version__, o.get_available_providers())"
    done = engine.run("/opt/tenner/bin/python", "-c", infer)
    assert done.code == 0, done.output
    assert "CPUExecutionProvider" in done.output
