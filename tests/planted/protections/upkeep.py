"""Section "Long trainings and clean-up" of docs/reliability.md."""

from tests.planted.bug import Protection

UPKEEP = (
    Protection(
        "upkeep: no checkpoint is removed", "dmd/storage/checkpoint.py",
        "            remove_sealed(old)\n", "            pass\n",
        promise="Memory and files do not grow", test="test_a_training_of_many_turns_needs_no_more_memory_or_files",
    ),
    Protection(
        "upkeep: only the present commit and the reflog keep objects", "flows/cleaning/cache.py",
        '"--all", "--reflog", "--objects"', '"--reflog", "--objects"',
        promise="No object of DVC's cache",
        test="test_an_object_that_nothing_names_is_an_orphan_and_any_reference_keeps_it",
    ),
    Protection(
        "upkeep: the folders of worktrees keep no object", "flows/cleaning/cache.py",
        "in (*_files_of_commits(root, commits), *_files_of_worktrees(root)):",
        "in _files_of_commits(root, commits):",
        promise="No object of DVC's cache",
        test="test_an_object_that_nothing_names_is_an_orphan_and_any_reference_keeps_it",
    ),
    Protection(
        "upkeep: champions and versions with an alias are old candidates", "flows/cleaning/versions.py",
        "if str(version.version) not in named and", "if",
        promise="No champion, present or former", test="test_old_candidates_are_found_and_what_is_named_stays",
    ),
    Protection(
        "upkeep: the result of a branch is an old candidate", "flows/cleaning/versions.py",
        "not in named and version.tags.get(LOCK_HASH) not in locks:", "not in named:",
        promise="No champion, present or former", test="test_old_candidates_are_found_and_what_is_named_stays",
    ),
    Protection(
        "upkeep: any folder of a version is removed", "flows/cleaning/versions.py",
        'is_own = place.scheme in ("", "file") and model in folder.parts and ".." not in folder.parts',
        'is_own = place.scheme in ("", "file")',
        promise="Of a version, only a folder", test="test_only_a_folder_of_the_models_own_is_removed",
    ),
    Protection(
        "upkeep: the scratch of a run that works is old", "flows/cleaning/scratch.py",
        "STATE.fullmatch(folder.name) and _newest(folder) < before:", "STATE.fullmatch(folder.name):",
        promise="Scratch that was written to within a week",
        test="test_old_scratch_is_found_and_downloads_logs_and_recent_runs_are_not",
    ),
    Protection(
        "upkeep: files are removed while a run works", "flows/cleaning/finding.py",
        'with hold_lock(main / "runs" / "flow.lock", BUSY), hold_lock(main / LOCK, BUSY):',
        "with hold_lock(main / LOCK, BUSY):",
        promise="Scratch that was written to within a week", test="test_nothing_is_removed_while_a_run_works",
    ),
    Protection(
        "upkeep: files are removed while an experiment runs", "flows/cleaning/finding.py",
        "if owners := find_owners(main):", "if owners := list[int]():",
        promise="Scratch that was written to within a week", test="test_nothing_is_removed_while_an_experiment_runs",
    ),
    Protection(
        "upkeep: files are removed at once", "flows/clean.py",
        "        if is_sure:\n", "        if items:\n",
        promise="Nothing is removed without `--yes`", test="test_the_command_shows_first_and_removes_with_yes",
    ),
)  # fmt: skip
