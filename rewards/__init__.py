"""Rewards: a registry of scorers, answer parsing, exact weighted edit distance, the weighted sum.

Importing this package imports neither torch nor numba; each reward is imported when it is first used.
"""

from glyphrl.rewards.errors import RewardError
from glyphrl.rewards.parsing import ParsedAnswer, parse_answer
from glyphrl.rewards.registry import build_reward, list_rewards, load_plugin, register_reward
from glyphrl.rewards.reward import Reward

__all__ = [
    "ParsedAnswer",
    "Reward",
    "RewardError",
    "build_reward",
    "list_rewards",
    "load_plugin",
    "parse_answer",
    "register_reward",
]
