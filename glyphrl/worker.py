"""One piece of a run in a process of its own: `python -m glyphrl.worker sft|grpo|eval CONFIG [--resume]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import warnings

from glyphrl.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    """Runs the piece. Exit codes: 0 done, 2 a mistake of the user's; other errors are tracebacks."""
    parser = argparse.ArgumentParser(prog="glyphrl.worker")
    parser.add_argument("what", choices=["sft", "grpo", "eval"])
    parser.add_argument("config")
    parser.add_argument("--resume", action="store_true")
    args = parser.parse_args(arguments)
    quieten_libraries()
    try:
        run_piece(args.what, args.config, resume=args.resume)
    except UserError as error:
        if os.environ.get("GLYPHRL_DEBUG"):
            raise
        print(f"glyphrl {args.what}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def run_piece(what: str, config_path: str, *, resume: bool) -> None:
    """Loads the configuration and calls the stage."""
    from glyphrl.config import load_config

    config = load_config(config_path)
    if what == "eval":
        from glyphrl.pipeline import evaluate_models

        evaluate_models(config)
        return
    if what == "grpo":
        from glyphrl.trainers.vllm_engine import prepare_environment

        prepare_environment(config.rollout)
    from glyphrl.trainers import grpo, sft

    {"sft": sft, "grpo": grpo}[what].run(config, resume=resume)


def quieten_libraries() -> None:
    """Our own messages and the libraries' warnings of weight, not their chatter."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("glyphrl").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_NO_ADVISORY_WARNINGS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "warning")


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.exit(code)
