"""Options that an implementation accepts in more than one form, and what its own defaults give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conventions.exchange import case_path
from support import normal, random_parameters

import perceiver_ref as pr
from perceiver_ref.autograd import vjp
from perceiver_ref.models.activations import activations
from perceiver_ref.models.call import Call
from perceiver_ref.peers import Given, peer
from perceiver_ref.peers.transformers.perceiver.config import read_config
from perceiver_ref.porting import check_case
from perceiver_ref.porting.cases import read_case

HF = {"num_latents": 2, "d_latents": 4, "num_self_attends_per_block": 1, "num_self_attention_heads": 1}
HF |= {"num_cross_attention_heads": 1, "d_model": 4}


def convolved(cls: str, shape: tuple[int, ...], **config: Any) -> np.ndarray:
    """Haiku's module of a kernel of ones on an input of ones."""
    kwargs = {"output_channels": 1, "kernel_shape": 2, "with_bias": False, **config}
    rebuilt = peer("deepmind").rebuild(cls, Given(kwargs, inputs={"x": shape}))
    p = {"weight": np.ones(rebuilt.model.parameters()["weight"].shape)}
    return rebuilt.run(rebuilt.model, p, {"x": np.ones(shape)}, {}, Call())["out"]


@pytest.mark.parametrize(
    ("cls", "options", "shape"),
    [
        ("Conv2D", {"stride": [1, 2]}, (1, 6, 3, 1)),
        ("Conv2D", {"stride": [3, 1], "padding": "VALID"}, (1, 2, 5, 1)),
        ("Conv2D", {"rate": [2, 1], "padding": "valid"}, (1, 4, 5, 1)),
        ("Conv2D", {"padding": [[1, 0], [0, 2]]}, (1, 6, 7, 1)),
        ("Conv2D", {"padding": [1, 1], "stride": 2}, (1, 4, 4, 1)),
        ("Conv2DTranspose", {"stride": [1, 2]}, (1, 6, 12, 1)),
        ("Conv2DTranspose", {"stride": [2, 3], "padding": "VALID"}, (1, 12, 18, 1)),
        ("Conv2DTranspose", {"stride": [2, 1], "padding": [[0, 1], [1, 1]]}, (1, 11, 7, 1)),
        ("Conv3D", {"stride": [1, 2, 3]}, (1, 6, 3, 2, 1)),
    ],
)
def test_a_number_for_each_axis_of_haikus_convolutions(
    cls: str, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    """Shapes as in `lax.conv_general_dilated`: floor((n + pads - reach) / stride) + 1, and its transpose's."""
    given = (1, *(6,) * (len(shape) - 2), 1)
    assert convolved(cls, given, **options).shape == shape


def test_explicit_padding_is_that_of_the_rule() -> None:
    same, explicit = (convolved("Conv2D", (1, 5, 5, 1), padding=p) for p in ("SAME", [0, 1]))
    np.testing.assert_array_equal(same, explicit)
    valid, without = (convolved("Conv2DTranspose", (1, 5, 5, 1), padding=p) for p in ("VALID", [1, 1]))
    np.testing.assert_array_equal(valid, without)


@pytest.mark.parametrize(("name", "value"), [("stride", [1, 2, 3]), ("stride", 0), ("padding", [[1, 2], 3])])
def test_what_fits_no_axis_is_refused(name: str, value: Any) -> None:
    with pytest.raises(pr.InputError, match=name):
        convolved("Conv2D", (1, 6, 6, 1), **{name: value})


def test_flow_may_be_scaled_by_a_fraction() -> None:
    case = read_case(case_path("deepmind/flow_nonsquare"))
    rebuilt = peer("deepmind").rebuild(
        case.meta["class"],
        Given(
            {**case.meta["config"], "flow_scale_factor": 2.5},
            {k: a.shape for k, a in case.inputs.items()},
            {k: a.shape for k, a in case.params.items()},
        ),
    )
    params, _ = rebuilt.load(case.params, "here")
    before = case.meta["config"].get("flow_scale_factor", 20)
    out = rebuilt.run(rebuilt.model, params, dict(case.inputs), case.meta["call"], Call())["flow"]
    np.testing.assert_allclose(out, case.outputs["flow"] * (2.5 / before), atol=1e-10)  # as `check` compares outputs


@pytest.mark.parametrize("size", [[8, 6], (8, 8)])
def test_image_size_may_be_a_pair_where_nothing_squares_it(size: Any) -> None:
    assert read_config({"config": {"image_size": size}})["image_size"] == tuple(size)
    assert peer("hf").rebuild("PerceiverModel", Given({"config": {**HF, "image_size": size}}))
    with pytest.raises(pr.InputError, match="needs one number as image_size"):
        peer("hf").rebuild("PerceiverForImageClassificationLearned", Given({"config": {**HF, "image_size": size}}))


def test_image_size_of_three_numbers_is_refused() -> None:
    with pytest.raises(pr.InputError, match="'image_size' of PerceiverConfig must be a whole number or a pair"):
        read_config({"config": {"image_size": [1, 2, 3]}})


# what transformers 5.23's ACT2FN gave at these places with torch 2.13, value and slope
PLACES = np.array([-20.0, -3.0, -1.0, -0.3, 0.0, 0.4, 3.0, 6.0, 11.0, 25.0])
RECORDED: dict[str, tuple[list[float], list[float]]] = {
    "gelu_10": (
        [
            -0.0,
            -0.00404969409489031,
            -0.15865525393145702,
            -0.1146265733433142,
            0.0,
            0.2621686966441297,
            2.99595030590511,
            5.999999994080474,
            10.0,
            10.0,
        ],
        [
            -1.1041896724319527e-86,
            -0.01194564720418392,
            -0.08331547058768635,
            0.26767223317289013,
            0.5,
            0.8027297977316535,
            1.011945647204184,
            1.0000000354687093,
            0.0,
            0.0,
        ],
    ),
    "hardswish": (
        [-0.0, -0.0, -0.3333333333333333, -0.135, 0.0, 0.22666666666666668, 3.0, 6.0, 11.0, 25.0],
        [0.0, 0.0, 0.16666666666666669, 0.4, 0.5, 0.6333333333333333, 1.0, 1.0, 1.0, 1.0],
    ),
    "laplace": (
        [
            0.0,
            0.0,
            7.173726057629892e-10,
            0.00017842335597845205,
            0.006094459617935588,
            0.1381507841416118,
            0.9999999999999998,
            1.0,
            1.0,
            1.0,
        ],
        [
            0.0,
            4.469898130710365e-38,
            1.5789058332504824e-08,
            0.002414580765167377,
            0.06111382879472588,
            0.7819041864361964,
            6.375366174527704e-15,
            5.0745150826378296e-77,
            1.1400653151359859e-289,
            0.0,
        ],
    ),
    "leaky_relu": (
        [-0.2, -0.03, -0.01, -0.003, 0.0, 0.4, 3.0, 6.0, 11.0, 25.0],
        [0.01, 0.01, 0.01, 0.01, 0.01, 1.0, 1.0, 1.0, 1.0, 1.0],
    ),
    "identity": (
        [-20.0, -3.0, -1.0, -0.3, 0.0, 0.4, 3.0, 6.0, 11.0, 25.0],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    ),
    "mish": (
        [
            -4.122307240628762e-08,
            -0.1456474612756246,
            -0.30340146137410895,
            -0.15113317713833455,
            0.0,
            0.2890305340723631,
            2.9865350049679575,
            5.999926634065252,
            10.999999993863375,
            25.0,
        ],
        [
            -3.916191874348969e-08,
            -0.09339311453232084,
            0.059216755877395014,
            0.40851087693570215,
            0.6,
            0.8370175025417962,
            1.0211069109294435,
            1.00013414050621,
            1.0000000117151693,
            1.0,
        ],
    ),
    "quick_gelu": (
        [
            -3.2934102413993747e-14,
            -0.01807130970778597,
            -0.1542042340671787,
            -0.11251586461840829,
            0.0,
            0.2655668902881656,
            2.981928690292214,
            5.999779646450213,
            10.99999991861743,
            25.0,
        ],
        [
            -5.440713718791758e-14,
            -0.024548323905652352,
            -0.06777960655633403,
            0.2553742580941275,
            0.5,
            0.8158249079511473,
            1.0245483239056525,
            1.0003383023764763,
            1.0000001311147173,
            1.0,
        ],
    ),
    "relu6": ([0.0, 0.0, 0.0, 0.0, 0.0, 0.4, 3.0, 6.0, 6.0, 6.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
    "sigmoid": (
        [
            2.0611536181902037e-09,
            0.04742587317756678,
            0.2689414213699951,
            0.425557483188341,
            0.5,
            0.598687660112452,
            0.9525741268224334,
            0.9975273768433653,
            0.999983298578152,
            0.999999999986112,
        ],
        [
            2.0611536139418496e-09,
            0.04517665973091214,
            0.19661193324148185,
            0.24445831169074586,
            0.25,
            0.24026074574152914,
            0.045176659730912,
            0.002466509291359931,
            1.670114291046157e-05,
            1.3888001859448131e-11,
        ],
    ),
    "sqrt_softplus": (
        [
            4.5399929739090794e-05,
            0.2204253877704246,
            0.5596978537731075,
            0.7445503639570175,
            0.8325546111576978,
            0.9555183160986254,
            1.7460204327480655,
            2.449995037778185,
            3.316627308209549,
            5.0,
        ],
        [
            2.2699964846151336e-05,
            0.10757806452621814,
            0.24025589838961542,
            0.28578152922164735,
            0.30028060219661246,
            0.3132790078566414,
            0.27278435834888104,
            0.203577428007362,
            0.1507530400088854,
            0.1,
        ],
    ),
    "tanh": (
        [
            -1.0,
            -0.9950547536867305,
            -0.7615941559557649,
            -0.2913126124515909,
            0.0,
            0.3799489622552249,
            0.9950547536867305,
            0.9999877116507956,
            0.9999999994421064,
            1.0,
        ],
        [
            0.0,
            0.009866037165440166,
            0.41997434161402614,
            0.9151369618266292,
            1.0,
            0.8556387860811777,
            0.009866037165440166,
            2.4576547405302974e-05,
            1.1157872400687276e-09,
            0.0,
        ],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_activations_have_the_values_and_slopes_of_pytorch(name: str) -> None:
    out, pull = vjp(activations[name], PLACES)
    np.testing.assert_allclose(out, RECORDED[name][0], rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(pull(np.ones_like(PLACES))[0], RECORDED[name][1], rtol=1e-12, atol=1e-15)


ORDER = {
    (): ["last_hidden_state"],
    ("output_hidden_states",): ["last_hidden_state", "hidden_states"],
    ("output_attentions", "output_hidden_states"): [
        *("last_hidden_state", "hidden_states", "attentions", "cross_attentions")
    ],
}


@pytest.mark.parametrize("wanted", ORDER)
@pytest.mark.parametrize("where", ["call", "config"])
def test_a_tuple_has_the_outputs_by_their_places(wanted: tuple[str, ...], where: str) -> None:
    """The order is that of transformers' output classes."""
    flags = dict.fromkeys(wanted, True) | {"return_dict": False}
    config = {**HF, **(flags if where == "config" else {})}
    rebuilt = peer("hf").rebuild("PerceiverModel", Given({"config": config}))
    p, call = random_parameters(rebuilt.model), flags if where == "call" else {}
    made = rebuilt.run(rebuilt.model, p, {"inputs": normal(0, 2, 3, 4)}, call, Call())
    for i, name in enumerate(ORDER[wanted]):
        own = {key[len(name) :]: value for key, value in made.items() if key.split(".")[0] == name}
        placed = {key[len(f"out{i}") :]: value for key, value in made.items() if key.split(".")[0] == f"out{i}"}
        assert own.keys() == placed.keys()
        assert all(own[key] is placed[key] for key in own)
    assert f"out{len(ORDER[wanted])}" not in {key.split(".")[0] for key in made}


def test_a_call_may_leave_out_what_the_configuration_asks_for() -> None:
    rebuilt = peer("hf").rebuild("PerceiverModel", Given({"config": {**HF, "output_attentions": True}}))
    p = random_parameters(rebuilt.model)
    made = rebuilt.run(rebuilt.model, p, {"inputs": normal(0, 2, 3, 4)}, {"output_attentions": False}, Call())
    assert list(made) == ["last_hidden_state"]


@pytest.mark.parametrize(
    "name", ["perceiver-ar/ar_rotary", "perceiver-ar/ar_query_mlp_head_groups", "deepmind/mlm_no_mask"]
)
def test_haikus_names_may_lack_the_mark_of_a_constructor(name: str) -> None:
    case = read_case(case_path(name))
    for group in (case.params, case.grad_params, case.trace, case.state):
        for key in [key for key in group if "/~/" in key]:
            group[key.replace("/~/", "/")] = group.pop(key)
    case.meta["tied"] = {k.replace("/~/", "/"): v.replace("/~/", "/") for k, v in case.meta.get("tied", {}).items()}
    result = check_case(case)
    assert result.status == "pass", result.worst


def test_softmax_without_a_dim_takes_pytorchs() -> None:
    """0 for 0, 1 or 3 axes, else 1."""
    rebuilt = peer("torch").rebuild("torch.nn.functional.softmax", Given({}))
    for axes, dim in ((1, 0), (2, 1), (3, 0), (4, 1)):
        x = normal(0, *(2,) * axes)
        made = [
            rebuilt.run(rebuilt.model, {}, {"input": x}, {"only": True, **c}, Call())["softmax"]
            for c in ({}, {"dim": dim})
        ]
        np.testing.assert_array_equal(*made)
