"""The upload queue of one destination as a state machine: what is sent when, in any order."""

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenner.runs.upload_item import UploadItem
from tenner.runs.upload_queue import TRANSITIONS, State, Upload, UploadPolicy, UploadQueue

STATES = UploadPolicy(keep_states=2)
SETS = UploadPolicy(keep_states=1, in_sets=True, pause_seconds=180)


def checkpoint(step: int) -> UploadItem:
    return UploadItem(path=Path(f"{step}.safetensors"), step=step, name=f"{step}.safetensors")


def state(step: int) -> UploadItem:
    return UploadItem(path=Path(f"step-{step}"), step=step)


def take(queue: UploadQueue, now: float) -> Upload:
    upload = queue.take(now)
    assert upload is not None
    assert queue.state is State.SENDING
    return upload


def test_an_empty_queue_is_idle_and_gives_nothing() -> None:
    queue = UploadQueue(STATES)
    assert queue.take(1e9) is None
    assert queue.state is State.IDLE
    assert not queue.is_busy


def test_newest_weights_go_first_then_their_state_then_older_weights_then_the_notes() -> None:
    queue = UploadQueue(STATES)
    for step in (10, 30, 20):
        queue.add_checkpoint(checkpoint(step), 0)
    queue.add_state(state(20), 0)
    queue.add_notes(0)
    sent: list[Upload] = []
    while upload := queue.take(1):
        sent.append(upload)
        queue.succeeded(1)
    assert [upload.items for upload in sent] == [
        (checkpoint(30),),
        (checkpoint(20),),
        (state(20),),
        (checkpoint(10),),
        (),
    ]
    assert [upload.notes_first for upload in sent] == [False, False, True, False, False]
    # older states are removed once the notes that follow the new one are there
    assert sent[-1] == Upload(kind="notes", with_notes=True, keep_states=2)
    assert queue.state is State.IDLE


def test_a_state_replaces_one_that_waits_and_a_checkpoint_one_of_its_name() -> None:
    queue = UploadQueue(STATES)
    assert queue.add_state(state(10), 0) is None
    assert queue.add_state(state(20), 0) == state(10)
    queue.add_checkpoint(checkpoint(10), 0)
    again = UploadItem(path=Path("elsewhere"), step=10, name="10.safetensors")
    queue.add_checkpoint(again, 0)
    assert queue.items == (again, state(20))


def test_a_failure_pauses_and_the_item_waits_again() -> None:
    queue = UploadQueue(STATES)
    queue.add_checkpoint(checkpoint(10), 0)
    take(queue, 0)
    assert queue.failed([], 100)
    assert queue.state is State.PAUSED
    assert queue.take(129.9) is None
    assert take(queue, 130).items == (checkpoint(10),)


def test_a_failed_state_that_a_newer_one_replaces_is_not_sent_again_and_nothing_pauses() -> None:
    queue = UploadQueue(STATES)
    queue.add_state(state(10), 0)
    take(queue, 0)
    queue.add_state(state(20), 1)
    assert queue.is_outdated
    assert queue.failed([], 1)  # slow or broken, the user is reported
    assert queue.state is State.READY
    assert take(queue, 1).items == (state(20),)


def test_files_that_are_gone_are_not_sent_again_and_not_warned_of() -> None:
    queue = UploadQueue(STATES)
    queue.add_checkpoint(checkpoint(10), 0)
    upload = take(queue, 0)
    assert not queue.failed(upload.items, 1)
    assert queue.state is State.IDLE


def test_a_set_waits_for_the_state_of_its_step_and_goes_as_one() -> None:
    queue = UploadQueue(SETS)
    queue.add_notes(0)
    assert queue.take(1e6) is None  # notes alone wait for company
    assert queue.state is State.GATHERING
    queue.add_checkpoint(checkpoint(10), 1e6)
    assert queue.take(1e6 + 59) is None
    queue.add_state(state(10), 1e6 + 59)
    upload = take(queue, 1e6 + 59)
    assert upload.items == (checkpoint(10), state(10))
    assert (upload.with_notes, upload.keep_states) == (True, 1)
    queue.succeeded(1e6 + 60)
    assert queue.state is State.IDLE


def test_a_set_whose_state_does_not_come_goes_after_the_time_to_gather() -> None:
    queue = UploadQueue(SETS)
    queue.add_checkpoint(checkpoint(10), 5)
    queue.add_state(state(5), 6)  # of an earlier step
    assert queue.take(64.9) is None
    assert take(queue, 65).items == (checkpoint(10), state(5))


def test_sets_are_apart_by_the_pause_but_in_a_hurry() -> None:
    queue = UploadQueue(SETS)
    queue.add_state(state(10), 0)
    take(queue, 0)
    queue.add_state(state(20), 1)
    queue.succeeded(2)
    assert queue.state is State.PAUSED
    queue.hurry(60, 3)
    assert take(queue, 3).items == (state(20),)
    queue.add_notes(4)
    queue.succeeded(4)
    assert take(queue, 4).kind == "notes"


def test_in_a_hurry_the_state_goes_first_where_it_arrives_in_time(tmp_path: Path) -> None:
    folder = tmp_path / "step-10"
    folder.mkdir()
    (folder / "tensors").write_bytes(bytes(1000))
    for until, first in ((16, "state"), (14, "checkpoint")):
        queue = UploadQueue(STATES)
        queue.speed.add(1000, 10)  # 100 bytes a second: 10 s, and half as much again to be sure
        queue.add_state(UploadItem(path=folder, step=10), 0)
        queue.add_checkpoint(checkpoint(10), 0)
        queue.hurry(until, 0)
        assert take(queue, 0).items[0].what == first


def test_in_a_hurry_a_failure_is_tried_again_after_a_second() -> None:
    queue = UploadQueue(STATES)
    queue.add_checkpoint(checkpoint(10), 0)
    queue.hurry(60, 0)
    take(queue, 0)
    assert queue.failed([], 5)
    assert queue.take(5.9) is None
    take(queue, 6)


def test_a_run_that_starts_anew_removes_states_before_it_sends_anything() -> None:
    queue = UploadQueue(STATES)
    queue.add_checkpoint(checkpoint(10), 0)
    report = UploadItem(path=Path("report.html"), step=0, name="report.html")
    queue.add_checkpoint(report, 0)
    queue.add_state(state(10), 0)
    assert queue.reset(1) == state(10)
    queue.add_state(state(1), 2)
    assert take(queue, 2).kind == "drop_states"
    queue.succeeded(3)
    assert take(queue, 3).items == (state(1),)
    queue.succeeded(4)
    assert take(queue, 4).items == (report,)


def test_a_state_under_way_when_the_run_starts_anew_is_not_sent_again() -> None:
    queue = UploadQueue(STATES)
    queue.add_state(state(10), 0)
    take(queue, 0)
    queue.reset(1)
    queue.failed([], 2)
    assert take(queue, 2).kind == "drop_states"
    queue.failed([], 3)
    assert queue.take(32) is None
    assert take(queue, 33).kind == "drop_states"  # until it worked


def test_nothing_leaves_a_closed_queue() -> None:
    queue = UploadQueue(STATES)
    queue.add_checkpoint(checkpoint(10), 0)
    take(queue, 0)
    assert queue.close()
    assert not queue.close()
    assert not queue.failed([], 1)
    queue.add_checkpoint(checkpoint(20), 1)
    assert queue.take(1e9) is None
    assert queue.state is State.CLOSED


def test_what_was_not_taken_can_be_neither_sent_nor_failed() -> None:
    queue = UploadQueue(STATES)
    with pytest.raises(AssertionError, match="under way"):
        queue.succeeded(0)
    assert not TRANSITIONS[State.CLOSED]
    senders = [each for each, following in TRANSITIONS.items() if State.SENDING in following]
    assert senders == [State.READY]


class Machine(RuleBasedStateMachine):
    """Any order of saves, failures and waits: every checkpoint arrives, and the newest state."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.step = 0
        self.queue = UploadQueue(UploadPolicy())
        self.checkpoints: set[str] = set()
        self.arrived: set[str] = set()
        self.newest_state: int | None = None
        self.states_sent: list[int] = []

    @precondition(lambda self: self.step == 0)
    @rule(in_sets=st.booleans(), keep_states=st.integers(0, 2), pause=st.sampled_from([0.0, 180.0]))
    def begin(self, in_sets: bool, keep_states: int, pause: float) -> None:
        policy = UploadPolicy(in_sets=in_sets, keep_states=keep_states, pause_seconds=pause)
        self.queue, self.step = UploadQueue(policy), 1

    @precondition(lambda self: self.step > 0)
    @rule(with_state=st.booleans())
    def save(self, with_state: bool) -> None:
        self.step += 1
        self.queue.add_checkpoint(checkpoint(self.step), self.now)
        self.checkpoints.add(checkpoint(self.step).name)
        if with_state and self.queue.policy.keep_states:
            self.queue.add_state(state(self.step), self.now)
            self.newest_state = self.step
        self.queue.add_notes(self.now)

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.queue.under_way is None)
    @rule()
    def take(self) -> None:
        self.queue.take(self.now)

    @precondition(lambda self: self.queue.under_way is not None)
    @rule()
    def arrive(self) -> None:
        assert self.queue.under_way is not None
        for item in self.queue.under_way.items:
            if item.is_state:
                self.states_sent.append(item.step)
            else:
                self.arrived.add(item.name)
        self.queue.succeeded(self.now)

    @precondition(lambda self: self.queue.under_way is not None)
    @rule()
    def fail(self) -> None:
        self.queue.failed([], self.now)

    @invariant()
    def nothing_is_lost(self) -> None:
        here = {item.name for item in self.queue.items if not item.is_state}
        assert self.checkpoints == here | self.arrived
        if self.newest_state is not None:
            waiting = [item.step for item in self.queue.items if item.is_state]
            assert self.newest_state in [*waiting, *self.states_sent]

    @invariant()
    def states_go_forward(self) -> None:
        assert self.states_sent == sorted(set(self.states_sent))

    def teardown(self) -> None:
        for _ in range(2 * len(self.checkpoints) + 4):
            self.now += 300
            if self.queue.under_way or self.queue.take(self.now):
                self.arrive()
        assert self.arrived == self.checkpoints
        assert self.newest_state is None or self.states_sent[-1] == self.newest_state


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
