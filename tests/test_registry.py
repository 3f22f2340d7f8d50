import pytest
from torch import nn

from minilearner import BatchTransform, FileFormatError, register, registry


@register(name="our.Noise")
class Noise(BatchTransform):
    """A class with a registered name."""

    def __init__(self, scale, *, twice=False):
        self.scale, self.twice = scale, twice


def test_a_name_and_arguments_make_the_object_again():
    described = registry.describe(Noise(0.5, twice=True), "the transform")
    assert described == {"name": "our.Noise", "arguments": {"scale": 0.5, "twice": True}}
    again = registry.build(described, registry.is_class_of(BatchTransform), "the transform")
    assert type(again) is Noise and (again.scale, again.twice) == (0.5, True)


def test_a_subclass_is_not_taken_for_its_parent():
    class Other(Noise):
        pass

    with pytest.raises(TypeError, match="the transform .*Other is not registered"):
        registry.describe(Other(1), "the transform")


def test_arguments_that_were_not_kept_are_an_error():
    @register
    class Forgetful(BatchTransform):
        def __init__(self, scale):
            pass

    with pytest.raises(TypeError, match="Forgetful must keep each argument.*scale"):
        registry.describe(Forgetful(1), "the transform")


@pytest.mark.parametrize("thing", [lambda x: x, 3, "MLP"])
def test_what_has_no_name_cannot_be_registered(thing):
    with pytest.raises(TypeError, match="`register` takes a class or a function with a name"):
        register(thing)


def test_nor_a_class_whose_arguments_have_none():
    class Loose(nn.Module):
        def __init__(self, *sizes):
            super().__init__()

    with pytest.raises(TypeError, match=r"Loose takes \*sizes"):
        register(Loose)


def test_a_name_of_ours_cannot_be_taken_but_a_cell_run_again_may():
    class MLP(nn.Module):
        """A class with the name of one of ours."""

    with pytest.raises(ValueError, match=r"'MLP' belongs to minilearner\.models\.mlp\.MLP.*register\(name=\.\.\.\)"):
        register(MLP)
    for _ in range(2):

        @register
        class Cell(BatchTransform):
            """A class that each run of the cell defines again."""

    assert registry.describe(Cell(), "the transform") == {"name": "Cell", "arguments": {}}


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"name": "our.Noises", "arguments": {}}, r"'our\.Noises' is not registered here\. Did you mean 'our\.Noise'"),
        ({"name": "os.system", "arguments": {"command": "true"}}, "'os.system' is not registered here"),
        ({"name": "MLP", "arguments": {"sizes": (2, 3)}}, "the transform cannot be 'MLP'"),
        ({"name": "our.Noise", "arguments": {"scale": 1, "__class__": 2}}, "cannot be built: .*unexpected keyword"),
        ({"name": "our.Noise"}, "must be a dictionary with a name and arguments"),
        ({"name": "our.Noise", "arguments": {1: 2}}, "must be a dictionary with a name and arguments"),
        (["our.Noise", {}], "must be a dictionary with a name and arguments"),
    ],
)
def test_a_file_can_only_name_what_belongs_to_the_place(description, message):
    with pytest.raises(FileFormatError, match=message):
        registry.build(description, registry.is_class_of(BatchTransform), "the transform")
