"""The networks of the sparse-training literature, in flax.linen.

All are called ``model.apply(variables, x, train)`` on NHWC images (``MLP`` and ``LeNet300100`` on
anything, flattened), return float32 logits or wider, and keep float32 parameters whatever the
``dtype`` of their computation. Those with batch normalization have ``batch_stats`` beside
``params``, to be passed as mutable when ``train`` is true.
"""

from .mlp import MLP as MLP
from .mlp import LeNet5 as LeNet5
from .mlp import LeNet300100 as LeNet300100
from .mobilenet import MobileNetV1 as MobileNetV1
from .plain_conv import PlainConv as PlainConv
from .resnet import CifarResNet as CifarResNet
from .resnet import ResNet50 as ResNet50
from .resnet import WideResNet as WideResNet
from .vgg import VGG as VGG
