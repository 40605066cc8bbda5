"""What plots have in common."""

from pipelines.figures.charts import MODEL_COLOURS, OTHER_COLOURS, colours_of, shades_of


def test_a_model_has_one_colour_in_every_plot_and_its_variants_a_lighter_one():
    first, second = colours_of(["CroCo", "MAE", "scratch"]), colours_of(["scratch", "A", "CroCo"])
    assert first == [MODEL_COLOURS[name] for name in ("croco", "mae", "scratch")]
    assert second == [first[2], OTHER_COLOURS[0], first[0]]
    variants = colours_of(["CroCo", "CroCo-30-rooms", "CroCo, 30 rooms", "MAE-half"])
    assert len(set(variants)) == 3
    assert variants[1] == variants[2]


def test_numbers_and_what_there_are_too_many_of_have_one_colour():
    assert colours_of(["A", "B"]) == list(OTHER_COLOURS[:2])
    assert colours_of(["0.1", "0.5", "0.7-then-0.5"]) == [OTHER_COLOURS[0]] * 3
    assert colours_of([*"ABCDE", "MAE"]) == [OTHER_COLOURS[0]] * 5 + [MODEL_COLOURS["mae"]]


def test_what_shares_a_colour_has_shades_of_it():
    one, other = OTHER_COLOURS[:2]
    shades = shades_of([one, other, one, one])
    assert shades[:2] == [one, other]
    assert len(set(shades)) == 4
