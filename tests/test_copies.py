"""Copies of what can be copied, and the rest shared."""

import copy
import threading
from collections import deque
from functools import partial

from minilearner.copies import copy_apart


class Owner:
    def __init__(self):
        self.lock, self.counts, self.more = threading.Lock(), [1], {"a": [2], "lock": threading.Lock()}
        self.deep = deque([3])

    def add(self, n=0):
        self.counts.append(n)


def test_only_what_cannot_be_copied_is_shared():
    owner = Owner()
    twin = copy_apart(owner)
    twin.add(5), twin.more["a"].append(6), twin.deep.append(7)
    assert owner.counts == [1] and owner.more["a"] == [2] and list(owner.deep) == [3]
    assert twin.lock is owner.lock and twin.more["lock"] is owner.more["lock"] and type(twin) is Owner


def test_methods_partials_and_collections_of_such_objects_are_copied_too():
    owner = Owner()
    for tried in (owner.add, partial(owner.add, 4), partial(owner.add, n=4)):
        copy_apart(tried)()
    for method in copy_apart([owner.add, (owner.add,)][:1]) + list(copy_apart((owner.add,))):
        method()
    copy_apart({"a": owner.add})["a"]()
    assert owner.counts == [1]


def test_what_can_be_copied_is_a_plain_deep_copy_and_shared_objects_stay():
    first, value = [1], {"x": [2]}
    value["first"], value["again"] = first, value["x"]
    twin = copy_apart(value, {id(first): first})
    assert twin == copy.deepcopy(value) and twin["again"] is twin["x"] is not value["x"] and twin["first"] is first
