"""What a network costs, from its config alone: MACs and parameters in closed form.

The same to the unit as what `count_macs` traces. Both are sums over layers, linear in every layer's channels.
"""

from evitlab.models.config import AttentionConfig, DownsampleConfig, FFNConfig, ModelConfig, Size, StageConfig


def count_config_macs(config: ModelConfig) -> int:
    """MACs of one image of the config's size: convolutions, linear layers, both products of attention."""
    size, total = _count_stem_macs(config)
    inputs = config.stages[0].width
    for stage in config.stages:
        if stage.downsample is not None:
            size, macs = _count_downsample_macs(stage.downsample, inputs, stage.width, size)
            total += macs
        layers = [layer for block in stage.blocks for layer in block.layers]
        total += sum(_count_layer_macs(layer, stage.width, size, config.class_token) for layer in layers)
        inputs = stage.width
    return total + inputs * config.num_classes


def count_config_params(config: ModelConfig, *, folded: bool = True) -> int:
    """Trainable scalars, with BatchNorm folded as `fold_batchnorm` does it, or as built for training."""
    parameters = _Parameters(config, folded)
    total = parameters.stem() + parameters.head()
    if config.position_embedding:
        height, width = config.grid
        total += config.stages[0].width * (height * width + 2 * config.class_token)
    inputs = config.stages[0].width
    for stage in config.stages:
        total += parameters.stage(inputs, stage)
        inputs = stage.width
    return total


def _count_stem_macs(config: ModelConfig) -> tuple[Size, int]:
    """Positions after the stem, and its MACs."""
    stem = config.stem
    if stem.kind == "patch":
        height, width = config.grid
        return config.grid, height * width * config.in_channels * stem.patch_size**2 * stem.widths[-1]
    size, total, inputs = config.image_size, 0, config.in_channels
    for outputs in stem.widths:
        size = _halve(size)
        total += size[0] * size[1] * 9 * inputs * outputs
        inputs = outputs
    return size, total


def _count_downsample_macs(down: DownsampleConfig, inputs: int, outputs: int, size: Size) -> tuple[Size, int]:
    """Positions after downsampling, and its MACs with the FFNs around it."""
    half, hidden = _halve(size), down.hidden_dim
    total = sum(_count_layer_macs(ffn, inputs, size, False) for ffn in down.before)
    total += sum(_count_layer_macs(ffn, outputs, half, False) for ffn in down.after)
    positions = half[0] * half[1]
    total += positions * hidden * outputs
    if down.kind == "inverted_residual":
        total += size[0] * size[1] * inputs * hidden + positions * 9 * hidden + 2 * hidden * _excite(hidden)
    return half, total


def _count_layer_macs(layer: AttentionConfig | FFNConfig, width: int, size: Size, class_token: bool) -> int:
    places = size[0] * size[1]
    if isinstance(layer, FFNConfig):
        depthwise = 0 if layer.depthwise_kernel is None else places * layer.depthwise_kernel**2 * width
        return depthwise + 2 * (places + class_token) * width * layer.hidden_dim
    windows, positions = 1, places + class_token
    if layer.window is not None:  # a map that windows do not tile is padded
        sides = [min(window, side) for window, side in zip(layer.window, size, strict=True)]
        counts = [-(-side // window) for window, side in zip(sides, size, strict=True)]
        windows, positions = counts[0] * counts[1], sides[0] * sides[1]
    heads, channels = layer.num_heads, 2 * layer.qk_dim + layer.v_dim
    split = width if layer.kind == "mhsa" else width // heads
    kernels = sum(kernel**2 for kernel in layer.query_kernels or ())
    macs = positions * split * heads * channels  # queries, keys, values
    macs += positions * kernels * layer.qk_dim
    macs += heads * positions**2 * (layer.qk_dim + layer.v_dim)
    return windows * (macs + positions * heads * layer.v_dim * width)


class _Parameters:
    """Counts parts as `models/layers.py` builds them in the config's layout and norm."""

    def __init__(self, config: ModelConfig, folded: bool):
        self.config = config
        self.is_tokens = config.layout == "tokens"
        self.folds = folded and config.norm == "batch"

    def conv(self, weights: int, outputs: int) -> int:
        """A convolution without bias and its norm; folded, the norm leaves a bias."""
        return weights + (outputs if self.folds else 2 * outputs)

    def pointwise(self, inputs: int, outputs: int) -> int:
        """A projection of channels."""
        return inputs * outputs + outputs if self.is_tokens else self.conv(inputs * outputs, outputs)

    def stem(self) -> int:
        """From pixels to the first width."""
        stem, inputs = self.config.stem, self.config.in_channels
        if stem.kind == "patch":
            outputs = stem.widths[-1]
            norm = 2 * outputs if stem.norm and not self.folds else 0
            return inputs * stem.patch_size**2 * outputs + outputs + norm
        sides = zip((inputs, *stem.widths), stem.widths, strict=False)
        return sum(self.conv(9 * before * after, after) for before, after in sides)

    def head(self) -> int:
        """Norm and classifier."""
        width = self.config.stages[-1].width
        return (0 if self.folds else 2 * width) + (width + 1) * self.config.num_classes

    def stage(self, inputs: int, stage: StageConfig) -> int:
        """Downsampling and blocks."""
        total = sum(self.layer(layer, stage.width) for block in stage.blocks for layer in block.layers)
        down = stage.downsample
        if down is None:
            return total
        total += sum(self.layer(ffn, inputs) for ffn in down.before)
        total += sum(self.layer(ffn, stage.width) for ffn in down.after)
        hidden = down.hidden_dim
        if down.kind == "patch_merging":  # its projection has no bias, until a folded norm gives it one
            return total + hidden * stage.width + (stage.width if self.folds else 2 * hidden)
        total += self.conv(inputs * hidden, hidden) + self.conv(9 * hidden, hidden)
        total += self.conv(hidden * stage.width, stage.width)
        return total + 2 * hidden * _excite(hidden) + _excite(hidden) + hidden

    def layer(self, layer: AttentionConfig | FFNConfig, width: int) -> int:
        """One attention or FFN layer with the norm before it."""
        if isinstance(layer, FFNConfig):
            kernel = layer.depthwise_kernel
            total = 0 if kernel is None else self.conv(kernel**2 * width, width)
            total += self.pointwise(width, layer.hidden_dim) + self.pointwise(layer.hidden_dim, width)
            return total + self.branch_norm(width, stays=False)
        heads, channels = layer.num_heads, 2 * layer.qk_dim + layer.v_dim
        if layer.kind == "mhsa":
            total = 2 * self.pointwise(width, heads * layer.qk_dim) + self.pointwise(width, heads * layer.v_dim)
        else:
            total = heads * self.pointwise(width // heads, channels)
        total += sum(self.conv(kernel**2 * layer.qk_dim, layer.qk_dim) for kernel in layer.query_kernels or ())
        total += self.pointwise(heads * layer.v_dim, width) + heads * _count_offsets(layer)
        return total + self.branch_norm(width, stays=layer.window is not None or layer.kind == "cascaded")

    def branch_norm(self, width: int, *, stays: bool) -> int:
        """The norm before a residual branch, of which maps have none; it `stays` where folding leaves it."""
        return 2 * width if self.is_tokens and (stays or not self.folds) else 0


def _count_offsets(layer: AttentionConfig) -> int:
    """Entries a head of the table of position biases."""
    if layer.position_bias == "none":
        return 0
    assert layer.window is not None
    height, width = layer.window
    return (2 * height - 1) * (2 * width - 1) if layer.position_bias == "relative" else height * width


def _excite(hidden: int) -> int:
    """Channels in the middle of squeeze-and-excitation: a quarter, in eights (timm's `make_divisible`)."""
    return max(8, int(hidden * 0.25 + 4) // 8 * 8)


def _halve(size: Size) -> Size:
    return -(-size[0] // 2), -(-size[1] // 2)
