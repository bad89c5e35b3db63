"""What is known of a model without torch or a download: the values of its config.json.

From the model's own folder; else from the table below, of what the hub's files say; else from the
hub, where it can be reached.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_QWEN2_5_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
_QWEN3_VISION = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
    "deepstack_visual_indexes": [8, 16, 24],
}
_SMALL_QWEN3_VISION = _QWEN3_VISION | {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "deepstack_visual_indexes": [5, 11, 17],
}


def _text(
    hidden: int, inner: int, layers: int, heads: tuple[int, int], vocabulary: int
) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "head_dim": 128,
    }


def _model(family: str, text: dict[str, int], vision: dict[str, Any], *, tied: bool) -> Any:
    return {
        "model_type": family,
        "text_config": text,
        "vision_config": vision,
        "tie_word_embeddings": tied,
    }


def _qwen2_5(text: dict[str, int], *, tied: bool = False, inner: int = 3420) -> Any:
    vision = _QWEN2_5_VISION | {"intermediate_size": inner}
    return _model("qwen2_5_vl", text, vision, tied=tied)


KNOWN: dict[str, Mapping[str, Any]] = {
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5(_text(2048, 11008, 36, (16, 2), 151936), tied=True),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5(_text(3584, 18944, 28, (28, 4), 152064)),
    "Qwen/Qwen2.5-VL-32B-Instruct": _qwen2_5(_text(5120, 27648, 64, (40, 8), 152064), inner=3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": _qwen2_5(_text(8192, 29568, 80, (64, 8), 152064), inner=3456),
    "Qwen/Qwen3-VL-2B-Instruct": _model(
        "qwen3_vl", _text(2048, 6144, 28, (16, 8), 151936), _SMALL_QWEN3_VISION, tied=True
    ),
    "Qwen/Qwen3-VL-4B-Instruct": _model(
        "qwen3_vl", _text(2560, 9728, 36, (32, 8), 151936), _SMALL_QWEN3_VISION, tied=True
    ),
    "Qwen/Qwen3-VL-8B-Instruct": _model(
        "qwen3_vl", _text(4096, 12288, 36, (32, 8), 151936), _QWEN3_VISION, tied=False
    ),
    "Qwen/Qwen3-VL-32B-Instruct": _model(
        "qwen3_vl", _text(5120, 25600, 64, (64, 8), 151936), _QWEN3_VISION, tied=False
    ),
}


def config_of(path: str) -> Mapping[str, Any]:
    """The values of the config.json of a folder or hub name.

    Raises ValueError where there is none, or the hub cannot be reached for a name that is unknown.
    """
    if path in KNOWN:
        return KNOWN[path]
    folder = Path(path)
    if folder.is_dir():
        try:
            return json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder / 'config.json'} cannot be read: {error}") from error
    require_model(path)
    return _from_hub(path)


def require_model(path: str) -> None:
    """ValueError unless `path` is a folder, or can be a name on the hub."""
    if not Path(path).is_dir() and (path.count("/") != 1 or path.startswith(("/", ".", "~"))):
        raise ValueError(f"there is no folder {path}")


def _from_hub(name: str) -> Mapping[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        found = hf_hub_download(name, "config.json", etag_timeout=5)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{name} is no folder, none of {', '.join(KNOWN)}, and not to be had from the hub "
            f"({reason}); give a folder with its config.json"
        ) from error
    return json.loads(Path(found).read_text())
