"""What the table of methods in the documentation says of each, beside its docstring."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Facts(NamedTuple):
    """What the table of methods says of one, beside the cost of its own forward and backward pass.

    Attributes:
      moves: What moves the masks.
      when: At which steps, by default.
      compute: Extra compute; f is a forward pass of the dense network.
      memory: Extra memory a maskable weight, beside the mask's byte.
      needs: What it needs beyond a loss.
      paper: Authors and year, with a link.
    """

    moves: str
    when: str
    compute: str
    memory: str
    needs: str
    paper: str


_TABLE = """
dense | nothing | never | none | none | nothing | | 
static | nothing | never | none | none | nothing | Liu 2022 | 2202.02643
set | small weights out, random ones in | every 100 steps | none | none | nothing | Mocanu 2018 | 1707.04780
set_by_sign | smallest positive and largest negative weights out, random ones in | every 100 steps | none | none | nothing | Mocanu 2018 | 1707.04780
rigl | small weights out, large gradients in | every 100 steps | a dense gradient an update | none | nothing | Evci 2020 | 1911.11134
snfs | small weights out, large momentum in, also across layers | every 100 steps | dense gradients | 4 B | nothing | Dettmers & Zettlemoyer 2019 | 1907.04840
snfs_rigl | small weights out, large momentum in | every 100 steps | dense gradients | 4 B | nothing | Evci 2020 | 1911.11134
dsr | weights below a threshold out, random ones in, also across layers | every 100 steps | none | none | nothing | Mostafa & Wang 2019 | 1902.05967
mest | weights small with small gradients out, random ones in | every 2,000 steps | none | none | nothing | Yuan 2021 | 2110.14032
mest_soft | the same, with more weights between updates | every 2,000 steps | none | none | nothing | Yuan 2021 | 2110.14032
deep_r | weights that change sign out, random ones in | every step | a selection and noise a step | 1 B | plain SGD | Bellec 2018 | 1711.05136
soft_deep_r | weights that change sign out, those that come back in | every step | noise a step | absent weights, 5 B | plain SGD; `forward_params` | Bellec 2018 | 1711.05136
srigl | as in rigl, with the same fan-in in each neuron that is left | every 100 steps | a dense gradient an update | none | nothing | Lasby 2024 | 2305.02299
cht | small weights out, ends of many paths of length 3 in | every 100 steps | products of the mask with itself, an update | n_in² + n_out² for a moment | nothing | Zhang 2024; CHTs | 2501.19107
top_kast | the largest weights are seen, more are trained | every 100 steps | gradients of the larger set | absent weights, 1 B | `forward_params` | Jayakumar 2020 | 2106.03517
dnw | the largest weights are seen | every step | dense gradients, a ranking a step | absent weights | `forward_params` | Wortsman 2019 | 1906.00586
ste | the largest weights are seen | every step | dense gradients, a ranking a step | absent weights | `forward_params` | Bengio 2013 | 1308.3432
ste_random | random weights are seen | every 100 steps | dense gradients | absent weights | `forward_params` | Bengio 2013 | 1308.3432
sr_ste | the largest n of m are seen, the others decay | every step | dense gradients, a ranking a step | absent weights | `forward_params` | Zhou 2021 | 2102.04010
ac_dc | all in, then small weights out, in turns | at the ends of phases | dense in every other phase | none | nothing | Peste 2021 | 2106.12379
str | a threshold a layer is learned | every step | dense weights | absent weights | `forward_params` | Kusupati 2020 | 2002.03231
powerpropagation | small weights out, once or along a cubic | at given steps | a power a weight | absent weights | `forward_params` | Schwarz 2021 | 2110.00296
l0 | gates are learned, one a unit | every step | gates drawn a step | absent weights | `forward_params` | Louizos 2018 | 1712.01312
variational_dropout | noise is learned, weights that are all noise go | every step | noise drawn a step | absent weights, 12 B | Adam; `forward_params` | Molchanov 2017 | 1701.05369
granet | small weights out along a cubic, large gradients in | every 1,000 steps | a dense gradient an update | none | nothing | Liu 2021 | 2106.10404
gradual_magnitude | small weights out, along a cubic | every 500 steps | dense at first | none | nothing | Zhu & Gupta 2018 | 1710.01878
magnitude | small weights out | once | dense until then | none | trained weights | Han 2015 | 1506.02626
iterative_magnitude | small weights out, a share of the rest each time | ten times | dense at first | none | nothing | Han 2015 | 1506.02626
movement | weights that move towards zero out, along a cubic | every step | dense gradients | absent weights, 4 B | pretrained weights; `forward_params` | Sanh 2020 | 2005.07683
movement_from_initial | weights that moved least out, along a cubic | every step | dense at first | 4 B | nothing | Zhou 2019 | 1905.01067
sensitivity | weights that the loss depends on least out | once | dense until then | 12 B | nothing | Karnin 1990 |
lookahead | small weights with small neighbors out | once | dense until then | none | trained weights, the order of layers | Park 2020 | 2002.04809
obd | weights of small curvature times square out | once | dense until then, one curvature | none | trained weights, a curvature | LeCun 1989 |
wanda | small weights on small inputs out | once | dense until then, one forward pass | none | trained weights, norms of inputs | Sun 2023 | 2306.11695
snip | small abs(w g) out | at step 0 | one dense gradient | none | nothing | Lee 2019 | 1810.02340
iterative_snip | small abs(w g) out, in rounds | at step 0 | dense gradients, a round each | none | a loss and batches | de Jorge 2021 | 2006.09081
force | small abs(w g) out, in rounds, some back in | at step 0 | dense gradients, a round each | none | a loss and batches | de Jorge 2021 | 2006.09081
grasp | what the norm of the gradient does without | at step 0 | a gradient and its derivative along itself | none | a model and batches | Wang 2020 | 2002.07376
synflow | what little flows through, in rounds | at step 0 | a gradient a round, of one example | none | a model | Tanaka 2020 | 2006.05467
"""


def _facts() -> Mapping[str, Facts]:
    found = {}
    for line in _TABLE.strip().splitlines():
        name, *facts, authors, number = [cell.strip() for cell in line.split("|")]
        paper = f"[{authors}](https://arxiv.org/abs/{number})" if number else authors
        found[name] = Facts(*facts, paper=paper)
    return MappingProxyType(found)


FACTS: Mapping[str, Facts] = _facts()
"""Name in the registry -> its facts."""
