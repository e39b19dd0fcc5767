"""The helpers of these tests assert too, so their failures should be as telling as a test's."""

import pytest

pytest.register_assert_rewrite("tests.model.memory_model", "tests.model.mailbox_model")
