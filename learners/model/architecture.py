"""Sizes of a policy, read from its `config.json`; no torch, so that a laptop can plan with them.

What counts here is what costs memory and time: parameters by part, widths of activations, which
layers look at what. `memory` and `flops` are computed from it, for the plan, the ranks and the
benches. Qwen2.5-VL and Qwen3-VL, whose parameters are counted exactly.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILIES = ("qwen2_5_vl", "qwen3_vl")
WINDOW, WHOLE = 112, (7, 15, 23, 31)  # Qwen2.5-VL's, where a config.json does not say


@dataclass(frozen=True, slots=True)
class Text:
    """The language model; `inner` is the width inside an MLP, `head` that of one attention head."""

    hidden: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head: int
    vocabulary: int

    @property
    def matrix(self) -> int:
        """Values of the embedding, or of a head of its own: the largest parameter."""
        return self.vocabulary * self.hidden


@dataclass(frozen=True, slots=True)
class Vision:
    """The tower over patches of `patch_values` numbers, of which `merge`² make an image token.

    `deep` mergers feed the first text layers (Qwen3-VL), `places` are learned positions. `windowed`
    of the layers see only windows of `window` patches a side.
    """

    hidden: int
    inner: int
    layers: int
    heads: int
    patch_size: int
    patch_values: int
    merge: int
    deep: int = 0
    places: int = 0
    windowed: int = 0
    window: int = 0


@dataclass(frozen=True, slots=True)
class Architecture:
    """A policy's sizes. `tied`: the head's weight is the embedding's.

    >>> Architecture.of(json.loads(Path("model/config.json").read_text())).parameters
    8292166656
    """

    family: str
    text: Text
    vision: Vision
    tied: bool

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Architecture":
        """Of the values in `config.json`, of today's nested form or of the older flat one.

        Raises ValueError for a family that is not known here, naming it.
        """
        family = config.get("model_type")
        if family not in FAMILIES:
            raise ValueError(f"model_type is {family!r}; it must be one of {', '.join(FAMILIES)}")
        text, vision = config.get("text_config", config), config["vision_config"]
        channels = vision.get("in_channels", vision.get("in_chans", 3))
        patch = vision["patch_size"]
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
        window = vision.get("window_size", WINDOW) if family == "qwen2_5_vl" else 0
        whole = len(vision.get("fullatt_block_indexes", WHOLE))
        return cls(
            family=family,
            text=Text(
                hidden=text["hidden_size"],
                inner=text["intermediate_size"],
                layers=text["num_hidden_layers"],
                heads=text["num_attention_heads"],
                key_heads=text["num_key_value_heads"],
                head=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
                vocabulary=text["vocab_size"],
            ),
            vision=Vision(
                hidden=vision["hidden_size"],
                inner=vision["intermediate_size"],
                layers=vision["depth"],
                heads=vision["num_heads"],
                patch_size=patch,
                patch_values=channels * vision.get("temporal_patch_size", 2) * patch**2,
                merge=vision.get("spatial_merge_size", 2),
                deep=len(vision.get("deepstack_visual_indexes", ())),
                places=vision.get("num_position_embeddings", 0),
                windowed=vision["depth"] - whole if window else 0,
                window=window // patch,
            ),
            tied=tied,
        )

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.vision_parameters + self.text_parameters

    @property
    def text_parameters(self) -> int:
        """Of the language model with embeddings and head."""
        text = self.text
        matrices = (1 if self.tied else 2) * text.matrix
        return matrices + text.layers * self._text_layer() + text.hidden

    @property
    def vision_parameters(self) -> int:
        """Of the tower with what merges its patches into image tokens."""
        vision = self.vision
        width, inner = vision.hidden, vision.inner
        if self.family == "qwen3_vl":
            biases, norms = 5 * width + inner, 4 * width
            embedding = width * (vision.patch_values + 1 + vision.places)
        else:
            biases, norms = 5 * width + 2 * inner, 2 * width
            embedding = width * vision.patch_values
        return embedding + vision.layers * (self.patch_matrices + biases + norms) + self._mergers()

    @property
    def token_matrices(self) -> int:
        """Values of the matrices that a token meets in one layer of the language model."""
        text = self.text
        queries, keys = text.heads * text.head, text.key_heads * text.head
        return text.hidden * (2 * queries + 2 * keys + 3 * text.inner)

    @property
    def patch_matrices(self) -> int:
        """Values of the matrices that a patch meets in a layer of the tower; Qwen3 has no gate."""
        vision = self.vision
        sides = 2 if self.family == "qwen3_vl" else 3
        return vision.hidden * (4 * vision.hidden + sides * vision.inner)

    @property
    def merger_matrices(self) -> int:
        """Values of the matrices of one merger, which makes an image token of `merge`² patches."""
        merged = self.vision.hidden * self.vision.merge**2
        return merged * (merged + self.text.hidden)

    def adapters(self, rank: int) -> int:
        """Parameters of adapters of this rank on all matrices of the language model's layers."""
        text = self.text
        queries, keys = text.heads * text.head, text.key_heads * text.head
        sides = 2 * (text.hidden + queries) + 2 * (text.hidden + keys)
        return rank * text.layers * (sides + 3 * (text.hidden + text.inner))

    def _text_layer(self) -> int:
        text = self.text
        queries, keys = text.heads * text.head, text.key_heads * text.head
        others = 2 * text.head if self.family == "qwen3_vl" else queries + 2 * keys
        return self.token_matrices + others + 2 * text.hidden

    def _mergers(self) -> int:
        vision = self.vision
        merged = vision.hidden * vision.merge**2
        one = self.merger_matrices + merged + self.text.hidden
        if self.family == "qwen3_vl":
            return one + 2 * vision.hidden + vision.deep * (one + 2 * merged)
        return one + vision.hidden


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
