"""Ways in: decorator, plugin file, module, entry point; and functions written for other frameworks."""

import importlib.metadata
import sys
from typing import Literal

import pytest

from glyphrl.errors import UserError
from glyphrl.rewards import build_reward, list_rewards, load_plugin, register_reward
from glyphrl.rewards.registry import find_reward


def test_decorated_function_with_parameters():
    @register_reward("starts_like")
    def starts_like(completions, solution, *, length: int = 1, **columns):
        """Do the first characters agree?"""
        return [float(c[:length] == s[:length]) for c, s in zip(completions, solution, strict=True)]

    assert "starts_like" in list_rewards()
    assert find_reward("starts_like").doc == "Do the first characters agree?"
    assert build_reward("starts_like", length=2)(["abc", "xbc"], ["abd", "abc"]) == [1.0, 0.0]
    with pytest.raises(UserError, match="length is 'two' \\(str\\); expected int"):
        build_reward("starts_like", length="two")
    with pytest.raises(UserError, match="starts_like has no parameter lenght; did you mean 'length'"):
        build_reward("starts_like", lenght=2)


def test_decorated_class_with_parameters():
    @register_reward("scaled")
    class Scaled:
        def __init__(self, factor: float, mode: Literal["a", "b"] = "a"):
            self.factor = factor
            self.mode = mode

        def __call__(self, completions, **columns):
            return [self.factor * len(c) for c in completions]

    assert build_reward("scaled", factor=2)(["abc"]) == [6]
    with pytest.raises(UserError, match="scaled needs factor"):
        build_reward("scaled")
    with pytest.raises(UserError, match=r"mode is 'c'.*expected 'a' or 'b'"):
        build_reward("scaled", factor=2, mode="c")


def test_a_name_is_taken_once():
    register_reward("mine")(lambda completions, **columns: [0.0] * len(completions))
    for name in ("mine", "weighted_cer"):
        with pytest.raises(UserError, match=f"named '{name}' exists already"):
            register_reward(name)(lambda completions, **columns: [1.0])
    register_reward("mine", override=True)(lambda completions, **columns: [1.0])
    assert build_reward("mine")(["a"]) == [1.0]
    for bad in ("", "a b", "a:b", "a/b"):
        with pytest.raises(UserError, match="is no name for a reward"):
            register_reward(bad)


def test_unknown_names_list_the_nearest():
    with pytest.raises(UserError, match="unknown reward 'weighted_wer'; did you mean 'weighted_cer'"):
        build_reward("weighted_wer")


def test_numbers_that_yaml_reads_as_text():
    assert build_reward("weighted_cer", important_weight="1e1").args == {"important_weight": 10.0}
    with pytest.raises(UserError, match="important_weight is True"):
        build_reward("weighted_cer", important_weight=True)


PLUGIN = '''
from glyphrl.rewards import register_reward
from neighbour import FACTOR

@register_reward("long_enough")
def long_enough(completions, solution, minimum: int = FACTOR, **columns):
    """At least so long."""
    return [float(len(c) >= minimum) for c in completions]

def undecorated(completions, **kwargs):
    return [2.0] * len(completions)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    (tmp_path / "neighbour.py").write_text("FACTOR = 3\n")
    (tmp_path / "my_rewards.py").write_text(PLUGIN)
    yield tmp_path
    sys.modules.pop("neighbour", None)


def test_plugin_file(plugin):
    assert load_plugin("my_rewards.py", plugin) == ["long_enough"]
    assert build_reward("long_enough")(["ab", "abc"], ["", ""]) == [0.0, 1.0]
    assert find_reward("long_enough").source == "plugin my_rewards.py"
    load_plugin("my_rewards.py", plugin)  # once more is no second registration
    (plugin / "my_rewards.py").write_text(PLUGIN.replace("float(", "2 * float("))
    load_plugin("my_rewards.py", plugin)
    assert build_reward("long_enough")(["abc"], [""]) == [2.0]


def test_function_of_a_file(plugin):
    assert find_reward("my_rewards.py:undecorated", plugin).name == "undecorated"
    assert build_reward(f"{plugin}/my_rewards.py:undecorated")(["a"]) == [2.0]
    with pytest.raises(UserError, match="has no 'undecorate'; did you mean 'undecorated'"):
        find_reward("my_rewards.py:undecorate", plugin)


def test_function_of_a_module(plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin))
    (plugin / "some_module_of_mine.py").write_text("def f(completions, **k):\n    return [3.0]\n")
    assert build_reward("some_module_of_mine:f")(["a"]) == [3.0]
    with pytest.raises(UserError, match="some_module_of_mine has no 'g'"):
        build_reward("some_module_of_mine:g")
    with pytest.raises(UserError, match="'no_such_module' cannot be imported"):
        build_reward("no_such_module:f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError"),
        ("def f(:\n", "line 1"),
        ("import no_such_module\n", "ModuleNotFoundError"),
        (
            "from glyphrl.rewards import register_reward\n@register_reward('ned')\ndef f(completions): ...\n",
            "'ned' exists",
        ),
    ],
)
def test_plugins_that_fail_say_where(tmp_path, content, message):
    path = tmp_path / "bad.py"
    path.write_text(content)
    with pytest.raises(UserError, match=f"bad.py.*{message}"):
        load_plugin(path)


def test_missing_plugins(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_plugin("none.py", tmp_path)
    with pytest.raises(UserError, match="is a folder"):
        load_plugin(tmp_path)


def test_entry_points(plugin, monkeypatch):
    monkeypatch.syspath_prepend(str(plugin))
    (plugin / "installed_package.py").write_text("def f(completions, **k):\n    return [4.0]\n")
    point = importlib.metadata.EntryPoint("from_package", "installed_package:f", "glyphrl.rewards")
    monkeypatch.setattr("glyphrl.rewards.registry.entry_points", lambda group: [point])
    assert "from_package" in list_rewards()
    assert build_reward("from_package")(["a"]) == [4.0]


def test_functions_written_for_trl():
    def by_code(completions, **kwargs):
        contents = [completion[0]["content"] for completion in completions]
        return [float(len(content)) for content in contents]

    def by_annotation(completions: list[list[dict[str, str]]], prompts, **kwargs):
        assert prompts == [[{"role": "user", "content": "Read."}]]
        return [float(completions[0][0]["role"] == "assistant")]

    def plain(completions, completion_ids, trainer_state=None, difficulty=None, **kwargs):
        assert trainer_state is None
        return [
            float(len(c) + len(i) + d)
            for c, i, d in zip(completions, completion_ids, difficulty, strict=True)
        ]

    for function in (by_code, by_annotation, plain):
        register_reward(function.__name__)(function)
    assert build_reward("by_code")(["abc"]) == [3.0]
    assert build_reward("by_code")([[{"role": "assistant", "content": "abcd"}]]) == [4.0]
    assert build_reward("by_annotation")(["abc"], prompts=["Read."]) == [1.0]
    assert build_reward("plain")(["abc"], completion_ids=[[1, 2]], difficulty=[10]) == [15.0]


def test_rewards_that_ship_with_trl():
    pytest.importorskip("trl")
    text = ["<think>\nso\n</think>\n7"]
    assert build_reward("trl.rewards.format_rewards:think_format_reward")(text) == [1.0]
    from trl.rewards.other_rewards import get_repetition_penalty_reward, get_soft_overlong_punishment

    register_reward("soft")(get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20))
    assert build_reward("soft")(["…"], completion_ids=[[1] * 90]) == [-0.5]
    register_reward("repeats")(get_repetition_penalty_reward(ngram_size=2))
    assert build_reward("repeats")(["…"], completion_ids=[[5] * 5]) == [-0.75]


SWIFT = """
import re
from typing import List

from swift.{module} import ORM, orms


class HasNumber(ORM):
    def __call__(self, completions, solution, **kwargs) -> List[float]:
        assert self.args is None
        return [float(bool(re.search(s, c))) for c, s in zip(completions, solution)]


class Asynchronous(ORM):
    async def __call__(self, completions, **kwargs) -> List[float]:
        return [float(len(c)) for c in completions]


orms["has_number"] = HasNumber
orms["asynchronous"] = Asynchronous
"""


@pytest.mark.parametrize("module", ["plugin", "rewards", "plugin.orm"])
def test_classes_written_for_ms_swift(tmp_path, module):
    if importlib.util.find_spec("swift") is not None:
        pytest.skip("ms-swift is installed; its own module is used")
    path = tmp_path / "swift_plugin.py"
    path.write_text(SWIFT.format(module=module))
    assert sorted(load_plugin(path)) == ["asynchronous", "has_number"]
    assert build_reward("has_number")(["a 7", "a"], ["7", "7"]) == [1.0, 0.0]
    assert build_reward("asynchronous")(["abc"]) == [3.0]
    assert build_reward(f"{path}:HasNumber")(["a 7"], ["7"]) == [1.0]
    assert "swift" not in sys.modules
