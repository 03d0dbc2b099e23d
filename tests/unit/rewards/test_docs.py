"""The examples of the documentation, as a new user would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from glyphrl.config_schema import RewardsConfig, RewardSpec
from glyphrl.rewards.compose import build_composer
from glyphrl.rewards.lint import lint_rewards
from glyphrl.rewards.lint_outputs import degenerate_outputs
from glyphrl.rewards.registry import BUILT_IN
from glyphrl.rewards.scoring import score_file

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "rewards.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def config_of(text, base_dir):
    section = yaml.safe_load(text)["rewards"]
    section["functions"] = [RewardSpec(**spec) for spec in section["functions"]]
    return build_composer(RewardsConfig(**section), base_dir)


@pytest.fixture
def own_reward(tmp_path):
    code = next(block for block in blocks(PAGE, "python") if "@register_reward" in block)
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith("#")]) <= 10
    (tmp_path / "my_rewards.py").write_text(code, encoding="utf-8")
    return tmp_path


def test_write_and_test_your_own(own_reward):
    test = next(block for block in blocks(PAGE, "python") if "from my_rewards" in block)
    subprocess.run([sys.executable, "-c", test], cwd=own_reward, check=True)


def test_score_your_own(own_reward):
    path = own_reward / "completions.jsonl"
    path.write_text('{"completion": "<answer>47</answer>", "solution": "476"}\n')
    report = score_file(path, ["same_length:tolerance=1"], plugins=["my_rewards.py"], base_dir=own_reward)
    assert [row.reward for row in report.rows] == [1.0]


class Sample:
    def __init__(self, number):
        self.id, self.prompt, self.extra = f"s{number}", "Read the text.", {}
        self.solution = f"{number * 7919 % 100000:05d}.{number % 10}"


def test_lint_and_use_your_own(own_reward):
    samples = [Sample(number) for number in range(1, 40)]
    alone = build_composer(
        RewardsConfig(functions=[RewardSpec("same_length")], plugins=["my_rewards.py"]), own_reward
    )
    kinds = {finding.degenerate for finding in lint_rewards(alone, samples).findings}
    assert "one character repeated" in kinds
    alone.close()
    used = next(block for block in blocks(PAGE, "yaml") if "same_length" in block)
    composer = config_of(used, own_reward)
    assert lint_rewards(composer, samples).ok
    composer.close()


def test_every_configuration_of_the_page_can_be_built(own_reward):
    for text in blocks(PAGE, "yaml"):
        config_of(text, own_reward).close()


def test_the_python_examples_give_what_they_say():
    code = next(block for block in blocks(PAGE, "python") if "build_reward" in block)
    names, compared = {}, 0
    for line in code.splitlines():
        statement, _, comment = line.partition("#")
        if not comment:
            exec(line, names)
            continue
        value = eval(statement, names)
        said = [float(number) for number in re.findall(r"\d+\.\d*", comment)]
        assert ([value] if isinstance(value, float) else list(value)) == pytest.approx(said, abs=1e-3)
        compared += 1
    assert compared == 3


def test_the_page_names_every_reward():
    for name in BUILT_IN:
        assert f"| `{name}` |" in PAGE


def test_the_page_counts_the_outputs_of_lint():
    assert len(degenerate_outputs(Sample(1), ["476.0", "abc"])) == 17
    assert "scores seventeen outputs" in PAGE


def test_the_example_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    examples = [block for block in blocks(readme, "python") if "@register_reward" in block]
    if not examples:
        pytest.skip("README.md shows no reward of one's own")
    for example in examples:
        done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
