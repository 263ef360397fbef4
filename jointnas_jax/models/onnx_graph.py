"""A trained network as an ONNX graph, written layer by layer, with BN folded into convolutions.

Networks have few kinds of layers. Converters of any JAX program read JAX's internals, so each of
them is for a few versions of JAX. Maps are `[N, C, H, W]` here, as ONNX has them.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from jointnas_jax.data import augment
from jointnas_jax.models.model import Model
from jointnas_jax.nets.norm import BN_EPSILON
from jointnas_jax.space import Block

# Names of the input, the output and the number of images.
IMAGES, LOGITS, BATCH = "images", "logits", "N"
# Of 2021: runtimes of today and of many phones know it.
_OPSET, _IR_VERSION = 17, 8


def onnx_graph(model: Model, batch_size: int = 0) -> bytes:
    """Returns the program of a model, see `models/exported_program.py`; a `batch_size` of 0: any N.

    Differs from the Flax module by float rounding.
    """
    arch, count = model.arch, batch_size or BATCH
    graph = _Graph(model.variables)
    x = graph.preprocessed(model)
    stem = np.asarray(model.variables["params"]["stem"]).transpose(3, 2, 0, 1)
    x = graph.conv_bn(x, stem, "stem_bn", stride=arch.stem.stride, pad=arch.stem.kernel // 2)
    x = graph.activation(x, arch.stem.activation)
    for block in arch.blocks():
        x = graph.mbconv(x, block)
    x = graph.conv_bn(x, graph.pointwise("head_expand"), "head_bn")
    x = graph.add("GlobalAveragePool", graph.activation(x, arch.head.activation))
    x = graph.dense(graph.add("Flatten", x), "head_project")
    x = graph.dense(graph.activation(x, arch.head.activation), "classifier", name=LOGITS)
    shape = (count, *model.image_size, arch.image_channels)
    images = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, shape)
    logits = helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, (count, arch.num_classes))
    body = helper.make_graph(
        graph.nodes, "jointnas_jax", [images], [logits], initializer=graph.weights
    )
    imports = [helper.make_opsetid("", _OPSET)]
    whole = helper.make_model(body, opset_imports=imports, ir_version=_IR_VERSION)
    helper.set_model_props(whole, {"labels": "\n".join(model.labels)})
    onnx.checker.check_model(whole, full_check=True)
    return whole.SerializeToString()


class _Graph:
    """Nodes and weights so far; methods add a layer, and return the name of its output."""

    def __init__(self, variables: Any):
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._params, self._stats = variables["params"], variables["batch_stats"]

    def add(self, kind: str, *inputs: str | np.ndarray, name: str = "", **attributes: Any) -> str:
        """Adds a node; arrays among its inputs become weights."""
        names = [x if isinstance(x, str) else self._weight(x) for x in inputs]
        output = name or f"x{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], name=output, **attributes))
        return output

    def _weight(self, value: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        array = np.ascontiguousarray(value, np.float32)
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def preprocessed(self, model: Model) -> str:
        """See `Model.preprocess`; resizing is two matmuls, as ONNX samples at other places."""
        x = self.add("Cast", IMAGES, to=TensorProto.FLOAT)
        x = self.add("Transpose", x, perm=(0, 3, 1, 2))
        mean, std = (np.array(values)[:, None, None] for values in (model.mean, model.std))
        x = self.add("Div", self.add("Sub", x, mean), std)
        size = model.arch.resolution
        if model.image_size == (size, size):
            return x
        # Weights of each row, or column, in the result: float32[H, R], float32[W, R].
        rows, columns = (
            np.asarray(augment.resize(jnp.eye(n)[:, :, None, None], size)[:, :, 0, 0])
            for n in model.image_size
        )
        return self.add("MatMul", self.add("MatMul", rows.T, x), columns)

    def mbconv(self, x: str, block: Block) -> str:
        """See `nets.network.MBConv`."""
        params, before = self._params[block.name], x
        if block.expands:
            x = self.conv_bn(x, self.pointwise(block.name, "expand"), block.name, "expand_bn")
            x = self.activation(x, block.activation)
        kernel = np.asarray(params["depthwise"]["kernel"]).transpose(2, 0, 1)[:, None]
        pad = block.kernel // 2 - block.trim
        x = self.conv_bn(
            x, kernel, block.name, "depthwise_bn", stride=block.stride, pad=pad, group=len(kernel)
        )
        x = self.activation(x, block.activation)
        if block.se_channels:
            x = self._squeeze_excite(x, block.name)
        x = self.conv_bn(x, self.pointwise(block.name, "project"), block.name, "project_bn")
        return self.add("Add", before, x) if block.residual else x

    def _squeeze_excite(self, x: str, block: str) -> str:
        gate = self.add("GlobalAveragePool", x)
        reduce, expand = (
            (self.pointwise(block, "se", name), np.asarray(self._params[block]["se"][name]["bias"]))
            for name in ("reduce", "expand")
        )
        gate = self.add("HardSwish", self.add("Conv", gate, *reduce))
        gate = self.add("HardSigmoid", self.add("Conv", gate, *expand), alpha=1 / 6, beta=0.5)
        return self.add("Mul", x, gate)

    def pointwise(self, *path: str) -> np.ndarray:
        """The kernel `float32[D, C, 1, 1]` of a layer from C to D channels."""
        layer = self._params
        for name in path:
            layer = layer[name]
        return np.asarray(layer["kernel"]).T[:, :, None, None]

    def conv_bn(
        self,
        x: str,
        kernel: np.ndarray,
        *norm: str,
        stride: int = 1,
        pad: int = 0,
        group: int = 1,
    ) -> str:
        """A convolution by `float32[D, C, k, k]` with the batch normalisation behind it."""
        affine, moments = self._params, self._stats
        for name in norm:
            affine, moments = affine[name], moments[name]
        factor = np.asarray(affine["scale"]) / np.sqrt(np.asarray(moments["var"]) + BN_EPSILON)
        shift = np.asarray(affine["bias"]) - np.asarray(moments["mean"]) * factor
        return self.add(
            "Conv",
            x,
            kernel * factor[:, None, None, None],
            shift,
            strides=(stride, stride),
            pads=(pad,) * 4,
            group=group,
        )

    def activation(self, x: str, kind: str) -> str:
        """See `nets.norm.ACTIVATIONS`."""
        if kind == "swish":
            return self.add("Mul", x, self.add("Sigmoid", x))
        return self.add({"hswish": "HardSwish", "relu": "Relu"}[kind], x)

    def dense(self, x: str, layer: str, name: str = "") -> str:
        """`float32[N, C]` -> `float32[N, D]`."""
        params = self._params[layer]
        bias = [np.asarray(params["bias"])] if "bias" in params else []
        return self.add("Gemm", x, np.asarray(params["kernel"]), *bias, name=name)
