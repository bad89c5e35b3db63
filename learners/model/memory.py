"""What a learner rank needs of memory, by formula. No torch: `o3rl plan` asks on a laptop.

With b bytes a number in the forward pass (`model.dtype`), Ψ parameters, T of them trained, R ranks:

| part | ZeRO-2 | ZeRO-3 |
|---|---|---|
| weights | b·Ψ | b·Ψ/R |
| gathered | | b·min(Ψ, 10⁹) |
| masters, float32 | 4·T/R | 4·T/R |
| moments, AdamW's two | 8·T/R | 8·T/R |
| gradients, float32, once more as a step begins | 8·T/R, in bfloat16 4·T/R | 8·T/R |
| sums of gradients, where the rest is offloaded | b·ℓ, in bfloat16 + 4·T/R | |
| buckets: gradients on their way, also in float32 | (b + 4)·max(ℓ, min(T, 5·10⁸)) | as left |
| reference model, whole, where KL is on without adapters | b·Ψ | b·Ψ |

ℓ is the largest parameter. With `learning.optimizer_offload` masters, moments and gradients are the
host's. What a pass holds is below; allocators add their holes, on GPUs commonly a tenth, and NCCL
and CUDA about 2 GB.
"""

from dataclasses import asdict, dataclass

from learners.model.architecture import Architecture, Text
from o3rl.config import LearningConfig, ModelConfig

LIVE = 10**9  # parameters that ZeRO-3 keeps gathered at most; DeepSpeed's default
BUCKET = 5 * 10**8  # gradients that are reduced together; DeepSpeed's default
EXACT = 4  # bytes of float32, in which norms, logits, gradients and masters are


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes through the model at once: tokens of a pack, how many predictions, patches."""

    tokens: int
    targets: int
    patches: int

    @classmethod
    def most(cls, tokens: int, architecture: Architecture) -> "Pass":
        """More than any pass of so many tokens: each is of a picture, and each predicts."""
        return cls(tokens, tokens, tokens * architecture.vision.merge**2)


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Bytes that a pass takes beside weights and gradients.

    `inputs` are its pixels; `text_kept` and `vision_kept` lie from forward to backward; `head`
    while the logits have their gradient, `text_layer` and `vision_layer` while a layer of each has.
    Backward goes head, text, vision, and lets go of what each has kept.
    """

    inputs: int
    text_kept: int
    vision_kept: int
    head: int
    text_layer: int
    vision_layer: int

    @property
    def peak(self) -> int:
        """At most at one time."""
        text = self.text_kept + max(self.head, self.text_layer)
        return self.inputs + self.vision_kept + max(text, self.vision_layer)


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes of one rank by part. `offloaded`: masters, moments and gradients are the host's."""

    weights: int
    gathered: int
    reference: int
    masters: int
    moments: int
    gradients: int
    sums: int
    buckets: int
    activations: int
    offloaded: bool

    @property
    def device(self) -> int:
        """All that lies where the rank computes."""
        parts = asdict(self)
        offloaded = parts.pop("offloaded")
        return sum(parts.values()) - (self.host if offloaded else 0)

    @property
    def host(self) -> int:
        """What is offloaded to the host's memory; 0 where nothing is."""
        return self.masters + self.moments + self.gradients if self.offloaded else 0


def rank_memory(
    architecture: Architecture,
    model: ModelConfig,
    learning: LearningConfig,
    *,
    largest: Pass | None = None,
) -> RankMemory:
    """Of each rank; `largest` is the largest pass, without it any of `learning.tokens_per_pass`."""
    each = 2 if model.dtype == "bfloat16" else EXACT
    everything, trained = architecture.parameters, trained_count(architecture, model)
    everything += architecture.adapters(model.lora_rank)
    whole = each * everything
    sharded = learning.zero == 3
    refers = bool(learning.kl) and not model.lora_rank
    largest = largest or Pass.most(learning.tokens_per_pass, architecture)
    text = architecture.text
    matrix = 0 if model.lora_rank else text.matrix
    one_buffer = learning.zero == 2 and each < EXACT  # for the sum and for the step
    sums = each * matrix + (EXACT * trained // learning.ranks if one_buffer else 0)
    return RankMemory(
        weights=whole // learning.ranks if sharded else whole,
        gathered=each * min(everything, LIVE) if sharded else 0,
        reference=each * architecture.parameters if refers else 0,
        masters=EXACT * trained // learning.ranks,
        moments=2 * EXACT * trained // learning.ranks,
        gradients=(1 if one_buffer else 2) * EXACT * trained // learning.ranks,
        sums=sums if learning.optimizer_offload and not sharded else 0,
        buckets=(each + EXACT) * max(matrix, min(trained, BUCKET)),
        activations=pass_memory(architecture, model, largest, logits_mib=learning.logits_mib).peak,
        offloaded=learning.optimizer_offload,
    )


def trained_count(architecture: Architecture, model: ModelConfig) -> int:
    """How many the optimiser owns: adapters only, or all but a frozen vision tower."""
    if model.lora_rank:
        return architecture.adapters(model.lora_rank)
    return architecture.parameters if trains_vision(model) else architecture.text_parameters


def trains_vision(model: ModelConfig) -> bool:
    """Whether the tower has a gradient: neither frozen nor left alone by adapters."""
    return not model.freeze_vision and not model.lora_rank


def pass_memory(
    architecture: Architecture, model: ModelConfig, largest: Pass, *, logits_mib: int
) -> PassMemory:
    """Of one pass with its gradients.

    With checkpointing each layer keeps its input only, and one layer at a time is computed again;
    a frozen tower (adapters freeze it too) keeps nothing but its image tokens.
    """
    text, vision = architecture.text, architecture.vision
    each = 2 if model.dtype == "bfloat16" else EXACT
    tokens, patches = largest.tokens, largest.patches
    by_token, by_patch = _text_layer(architecture, each), _vision_layer(architecture, each)
    again = model.gradient_checkpointing
    text_kept = tokens * text.layers * (each * text.hidden if again else by_token)
    text_kept += tokens * text.hidden * (EXACT + 3 * each)  # embeddings, the last norm
    vision_kept = 0
    if trains_vision(model):
        mergers = (1 + vision.deep) * vision.hidden * (EXACT + 4 * each)
        by_layer = each * vision.hidden if again else by_patch
        vision_kept += patches * (vision.layers * by_layer + mergers)
    cast = each if each < EXACT else 0
    return PassMemory(
        inputs=patches * vision.patch_values * (EXACT + cast),
        text_kept=text_kept,
        vision_kept=vision_kept,
        head=_head(text, largest.targets, each, logits_mib=logits_mib),
        # What was computed again, and gradients of two widths inside the MLP and two outside.
        text_layer=tokens * (by_token * again + 2 * each * (text.inner + text.hidden)),
        vision_layer=patches * (by_patch * again + 2 * each * (vision.inner + vision.hidden)),
    )


def step_peak(architecture: Architecture, found: PassMemory, *, each: int = EXACT) -> int:
    """Bytes above model and inputs when one pass runs alone and autograd keeps all gradients.

    Gradients come as what was kept goes: the peak is the highest of the moments on the way. `each`
    is the bytes of a gradient.
    """
    matrix = each * architecture.text.matrix
    text = each * architecture.text_parameters
    return max(
        found.vision_kept + found.text_kept + matrix + max(found.head, found.text_layer),
        found.vision_kept + text + found.text_layer,
        found.vision_kept + text + 2 * matrix,  # the embedding's gradient, added to the head's
        found.vision_kept + text + found.vision_layer,
        each * architecture.parameters,
    )


def _text_layer(architecture: Architecture, each: int) -> int:
    """Bytes a token that a layer keeps for its backward pass.

    Two norms, each with its input in float32, what it is normalised to and its output; rotary
    cosines and sines; queries, keys, values, output and normaliser of attention; gate, its
    activation, up and their product. Qwen3-VL also has norms of queries and keys.
    """
    text = architecture.text
    queries, keys = text.heads * text.head, text.key_heads * text.head
    norms = 2 * text.hidden * (EXACT + 2 * each)
    if architecture.family == "qwen3_vl":
        norms += (queries + keys) * (EXACT + each)
    widths = 2 * queries + 2 * keys + 2 * text.head + 4 * text.inner
    return norms + each * widths + EXACT * text.heads


def _vision_layer(architecture: Architecture, each: int) -> int:
    """Bytes a patch that a block of the tower keeps: as above, one width more at its norms.

    Off a GPU windows of several sizes are padded, which at most doubles queries, keys and values.
    """
    vision = architecture.vision
    if architecture.family == "qwen3_vl":  # norms keep input and output, the MLP has no gate
        widths = 4 * vision.hidden + 2 * vision.inner
        norms = 0
    else:
        widths = 4 * vision.inner
        norms = 2 * vision.hidden * (EXACT + 2 * each)
    return norms + each * (5 * vision.hidden + widths) + EXACT * vision.heads


def _head(text: Text, targets: int, each: int, *, logits_mib: int) -> int:
    """Logits and their softmax in float32, a chunk at a time, as `logprob_head` has it.

    In bfloat16 also their gradient, and that of the weight in float32 while chunks are added up.
    """
    chunk = max(logits_mib * 2**20 // EXACT, text.vocabulary)
    logits = min(targets * text.vocabulary, chunk)
    rounded = each if each < EXACT else 0
    total = 2 * EXACT * text.matrix if rounded and targets * text.vocabulary > chunk else 0
    return logits * (2 * EXACT + rounded) + total + 2 * targets * text.hidden * each
