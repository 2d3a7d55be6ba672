"""Section "Damaged files" of docs/reliability.md."""

from tests.planted.bug import Protection

DAMAGE = (
    Protection(
        "damage: a stage takes its inputs as they are", "stages/command.py",
        "        check_recorded([getattr(args, name) for name in inputs], Path())\n", "        pass\n",
        promise="data, encoded shards, teacher", test="test_a_damaged_input_is_named_before_a_stage_starts",
    ),
    Protection(
        "damage: the copy in the cache is not looked at", "dmd/storage/recorded.py",
        "if copy and copy.is_file() and _md5(copy) != md5:", "if not output.md5:",
        promise="a file of DVC's cache", test="test_a_damaged_file_of_the_cache_is_named_when_its_copy_is_used",
    ),
    Protection(
        "damage: a result is published as it is", "flows/registry/result.py",
        "    check_recorded([root / path for path in PUBLISHED], root)\n", "",
        promise="generator, measures, samples", test="test_a_damaged_result_is_named_and_not_published",
    ),
    Protection(
        "damage: a checkpoint is not compared with its checksum", "dmd/storage/checkpoint.py",
        "        if not is_intact(file):\n            return None\n", "",
        promise="checkpoint: ", test="test_a_damaged_checkpoint_is_named_and_the_one_before_is_used",
    ),
    Protection(
        "damage: rows are not compared with their checksum", "dmd/storage/checkpoint.py",
        'return content if self.rows.fits(content["rows"]) else None', "return content",
        promise="rows of a training that runs", test="test_damaged_rows_are_named_and_not_used",
    ),
    Protection(
        "damage: stored features are taken as they are", "evaluation/features/store.py",
        "    if not is_usable(path):\n        return None\n", "    if not path.exists():\n        return None\n",
        promise="stored features and scores", test="test_a_damaged_entry_is_named_and_computed_again",
    ),
    Protection(
        "damage: a kept file is not compared with its checksum", "dmd/storage/seal.py",
        "    if is_intact(file):\n", "    if file.exists():\n",
        promise="finished batches of `pairs`", test="test_a_damaged_file_is_named_and_removed",
    ),
    Protection(
        "damage: a finished batch is taken as it is", "dmd/teachers/pairs.py",
        "if file is not None and is_usable(file):", "if file is not None and file.exists():",
        promise="finished batches of `pairs`", test="test_a_damaged_batch_is_sampled_again",
    ),
    Protection(
        "damage: a finished shard is taken as it is", "dmd/encoding/encode.py",
        "if k % share.processes != share.rank or is_usable(file):",
        "if k % share.processes != share.rank or file.exists():",
        promise="finished batches of `pairs`", test="test_a_killed_run_resumes_after_its_last_complete_shard",
    ),
)  # fmt: skip
