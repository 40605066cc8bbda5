"""Pictures of errors and motions, and what their colours say."""

import numpy as np
import pytest

from training.downstream.colours import error_panel, error_picture, flow_key, flow_picture


@pytest.mark.parametrize(("times", "limit"), [(0.0, "1"), (0.02, "2"), (0.06, "10"), (3.0, "500")])
def test_an_error_is_shown_to_where_most_errors_are(times, limit):
    """0 to 99 times something, and an unknown one."""
    error = np.append(times * np.arange(100.0), np.nan)[None]
    title, picture = error_panel(error, "px")
    assert title == f"error to {limit} px"
    np.testing.assert_array_equal(picture, error_picture(error, float(limit)))


def test_the_colours_of_motions_are_shown_where_they_lead():
    key = flow_key((5, 7), 12.0)
    for row, column, motion in ((2, 6, (12, 0)), (0, 3, (0, -12)), (2, 3, (0, 0)), (3, 3, (0, 6))):
        expected = flow_picture(np.array([[motion]], float), 12.0)[0, 0]
        np.testing.assert_array_equal(key[row, column], expected)
