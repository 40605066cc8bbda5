import weakref

from generation.keep_last import keep_last


class Scene:
    pass


def test_the_last_value_is_kept_and_gone_before_the_next_is_made():
    made: list[weakref.ref[Scene]] = []

    @keep_last
    def load(name: str, digest: str) -> Scene:
        assert not made or made[-1]() is None, "two scenes at once"
        scene = Scene()
        made.append(weakref.ref(scene))
        return scene

    first = load("a", "1")
    assert load("a", "1") is first
    del first
    load("a", "2")
    load("b", "2")
    assert len(made) == 3
