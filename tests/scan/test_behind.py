import threading

import pytest

from imlctl.scan.behind import AtOnce, Behind


@pytest.mark.parametrize("lane", [AtOnce, Behind])
def test_everything_is_done_in_order(lane):
    done = []
    with lane(lambda n: n * n) as writer:
        for n in range(20):
            done += writer.put(n)
        done += writer.rest()
    assert done == [n * n for n in range(20)]


def test_the_thread_works_while_the_next_item_is_made():
    gate = threading.Event()

    def finish(item):
        assert gate.wait(10)
        return item

    with Behind(finish) as writer:
        assert list(writer.put(1)) == []  # came back although nothing is finished
        gate.set()
        assert list(writer.rest()) == [1]


def test_whoever_is_too_fast_waits():
    gate = threading.Event()
    with Behind(lambda item: gate.wait(10) and item) as writer:
        put = 0

        def fill():
            nonlocal put
            for n in range(1, 9):
                list(writer.put(n))
                put += 1

        filler = threading.Thread(target=fill)
        filler.start()
        filler.join(0.2)
        assert put <= 3  # one in hand, two waiting
        gate.set()
        filler.join(10)
        assert put == 8
        list(writer.rest())


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_error_is_raised_after_what_came_before_it_and_drops_what_comes_after(error):
    seen = []

    def finish(item):
        seen.append(item)
        if item == 1:
            raise error
        return item

    done = []

    def run():
        with Behind(finish) as writer:
            for n in range(9):
                done.extend(writer.put(n))
            done.extend(writer.rest())

    with pytest.raises(type(error)):
        run()
    assert done in ([], [0])
    assert seen == [0, 1]


def test_leaving_early_finishes_the_item_in_hand_and_drops_the_others():
    started, gate, finished = threading.Event(), threading.Event(), []

    def finish(item):
        started.set()
        assert gate.wait(10)
        finished.append(item)

    def run():
        with Behind(finish) as writer:
            list(writer.put(1))
            list(writer.put(2))
            assert started.wait(10)
            threading.Timer(0.05, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert finished == [1]
