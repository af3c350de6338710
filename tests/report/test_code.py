import pytest
import torch
from torch import Tensor, nn

from pplvae.autoencoders import Autoencoder, linear, probabilistic
from pplvae.data import Dataset
from pplvae.report import code
from pplvae.report.build import prepared
from pplvae.report.section import Section, Settings, Study

STEPS = code.STEPS  # of a real report; half of them will do


def found(x: Tensor, dimension: float) -> Section:
    dataset = Dataset(x, (x.shape[1],), None, "a table")
    study = Study(dataset, prepared(x, image=False, standardize=True), 0, Settings(), False)
    study.dimension = dimension
    return code.section(study)


def gaussian(num_points: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num_points, columns, generator=generator)
    return x @ torch.randn(columns, columns, generator=generator)


@pytest.mark.slow
@pytest.mark.usefixtures("unpainted")
def test_a_small_table_gets_as_many_steps_as_a_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 points within 0.05 of a plane PCA leaves 0.1 % of the variance. The trained stack
    leaves 0.1 to 1.2 % over random tables, and 6 to 22 % after 40 steps."""
    monkeypatch.setattr(code, "STEPS", STEPS // 2)
    x = torch.randn(60, 2) @ torch.randn(2, 4) + 0.05 * torch.randn(60, 4)
    assert found(x, 2.0).numbers["share_of_variance"]["stacked"] < 0.03


@pytest.mark.usefixtures("unpainted")
def test_a_stack_that_has_not_converged_is_no_finding() -> None:
    section = found(gaussian(200, 6), 3.0)
    assert section.numbers["stacked_doubt"] == "not converged"
    shares = section.numbers["share_of_variance"]
    assert section.answer == (
        f"A code of 3 numbers loses {shares['PCA']:.0%} of the variance of held-out points by "
        "PCA. The stacked autoencoder says nothing here: its training has not converged. It "
        f"loses {shares['stacked']:.0%}, and could do all that PCA does."
    )


class Memory(nn.Module):
    """Gives the nearest of the points it has seen."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x

    def forward(self, x: Tensor) -> Tensor:
        return self.x[torch.cdist(x, self.x).argmin(dim=1)]


def test_a_stack_that_knows_its_points_by_heart_is_no_finding() -> None:
    train, test = gaussian(80, 6).double().split([50, 30])
    plane = linear.fit(train, 5).autoencoder
    stack = Autoencoder(nn.Identity(), Memory(train), 6, 6)
    assert stack.error(train) == 0
    doubt = code._doubt(plane, stack, train, test)
    said = code._answer(5, {"PCA": 0.1, "stacked": 0.9}, doubt)
    assert "says nothing here: it has learned its training points, too few of them, by " in said
    assert code._doubt(plane, plane, train, test) is None


def test_a_stack_that_is_worse_by_noise_is_not_doubted() -> None:
    """Off by 1 and by 0.9 in turn: 0.1 more on average, with a standard error of 0.17."""
    x = torch.zeros(30, 1)
    perfect = Autoencoder(nn.Identity(), nn.Identity(), 1, 1)

    def of(errors: Tensor) -> Autoencoder:
        found = Autoencoder(nn.Identity(), nn.Identity(), 1, 1)
        found.reconstruct = lambda x: x + errors[:, None]  # type: ignore[method-assign, assignment]
        return found

    turn = (torch.arange(30) % 2).double()
    assert code._doubt(of(0.9 * turn), of(1 - turn), x, x) is None
    assert code._doubt(perfect, of(1 - turn), x, x) == "not converged"


@pytest.mark.usefixtures("unpainted")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_that_are_sums_of_others_have_no_density(dtype: torch.dtype) -> None:
    b = torch.randn(300, 2, dtype=dtype)
    x = torch.cat([b, b.sum(dim=1, keepdim=True), b[:, :1] - b[:, 1:]], dim=1)
    section = found(x, 2.0)
    assert section.numbers["rank"] == 2
    assert section.numbers["ppca_log_prob"] is None
    assert section.notes == [
        "The 240 training points have rank 2 in 4 columns: they fill no volume, and a code of 2 "
        "numbers leaves no noise to fill it. A density of them does not exist: any value can be "
        "beaten by a VAE with less noise."
    ]
    shorter = found(x, 1.0)
    assert shorter.numbers["ppca_log_prob"] is not None
    assert shorter.notes[0].endswith("they fill no volume; its noise does.")


@pytest.mark.usefixtures("unpainted")
def test_the_log_density_is_that_of_double_precision() -> None:
    """A column of standard deviation 1 around 1e5 is nothing to single precision."""
    x = gaussian(100, 4) * 1e-4 + 1e4
    dataset = Dataset(x, (4,), None, "a table")
    study = Study(dataset, x, 0, Settings(standardize=False), False, dimension=2.0)
    train, test, rank = code._parts(study)
    assert (len(train), len(test), rank) == (80, 20, 4)
    exact = probabilistic.fit(train, 2).log_prob(test).mean().item()
    assert code.section(study).numbers["ppca_log_prob"] == pytest.approx(exact, rel=1e-12)


@pytest.mark.usefixtures("unpainted")
def test_refuses_data_on_a_line() -> None:
    with pytest.raises(ValueError, match=r"a code must be shorter than the data's rank, 1"):
        found(torch.randn(50, 1) @ torch.ones(1, 3), 1.0)
