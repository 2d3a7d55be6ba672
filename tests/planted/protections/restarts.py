"""Section "Kills and restarts" of docs/reliability.md."""

from tests.planted.bug import Protection

RESTARTS = (
    Protection(
        "restarts: a training resumes without its optimizers", "dmd/distillation/state.py",
        '            self.optimizers[turn].load_state_dict(place_moments(state["optimizers"][turn], parameters))\n', "",
        promise="A training that is ended and continued",
        test="tests/dmd/distillation/test_trainer.py::test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit",
    ),
    Protection(
        "restarts: a teacher resumes without its optimizer", "dmd/teacher_training/trainer.py",
        '        self.optimizer.load_state_dict(state["optimizer"])\n', "",
        promise="A training that is ended and continued",
        test="tests/dmd/teacher_training/test_teacher_trainer.py"
        "::test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit",
    ),
    Protection(
        "restarts: a short training resumes with new networks", "dmd/training/resumable.py",
        "        for name, part in parts.items():\n            part.load_state_dict(saved[name])\n", "",
        promise="The stages teacher, trunk and evaluator",
        test="test_a_training_that_is_ended_continues_to_the_same_bytes",
    ),
    Protection(
        "restarts: a trunk resumes without its optimizer", "dmd/trunk_training/train.py",
        '{"net": net, "optimizer": optimizer}', '{"net": net}',
        promise="The stages teacher, trunk and evaluator",
        test="test_a_trunk_that_is_ended_continues_to_the_same_bytes",
    ),
    Protection(
        "restarts: the thread writes the weights themselves, not a copy", "dmd/storage/snapshot.py",
        'whole.detach().to("cpu", copy=True)', 'whole.detach().to("cpu")',
        promise="A training waits for a copy",
        test="test_a_state_is_copied_when_it_is_saved_and_the_training_does_not_wait",
    ),
    Protection(
        "restarts: nobody asks the thread for its error", "dmd/storage/background.py",
        "if self.task is not None and self.task.done():", "if self.task is not None and self.task.cancelled():",
        promise="A training waits for a copy", test="test_an_error_of_the_thread_is_raised_at_the_next_turn",
    ),
    Protection(
        "restarts: every checkpoint holds all rows", "dmd/storage/checkpoint.py",
        '"rows": mark, "state": state}', '"rows": mark, "state": state, "all": self.rows.read()}',
        promise="A checkpoint does not grow", test="test_the_size_of_a_checkpoint_does_not_grow_with_the_turns",
    ),
    Protection(
        "restarts: rows behind the checkpoint stay", "dmd/storage/row_log.py",
        'self.size = mark["bytes"] if mark else 0', "self.size = self.file.stat().st_size if mark else 0",
        promise="A checkpoint does not grow", test="test_rows_are_cut_back_to_the_checkpoint",
    ),
    Protection(
        "restarts: a checkpoint of the main process's shards", "dmd/storage/snapshot.py",
        'value.full_tensor() if hasattr(value, "full_tensor") else value',
        'value.to_local() if hasattr(value, "to_local") else value',
        promise="A checkpoint of two processes", test="test_a_checkpoint_of_two_processes_is_read_by_one_and_by_three",
    ),
    Protection(
        "restarts: a checkpoint of any version is read", "dmd/storage/checkpoint.py",
        'if content.get("format") != FORMAT:', "if not content:",
        promise="A checkpoint of another version", test="test_a_checkpoint_of_an_earlier_version_is_one_line",
    ),
    Protection(
        "restarts: a signal ends the first process of a command alone", "flows/runtime/process.py",
        "os.killpg(process.pid, number)", "os.kill(process.pid, number)",
        promise="A signal ends a run", test="test_a_signal_ends_the_run_and_all_its_processes",
    ),
    Protection(
        "restarts: no checkpoint after a signal", "dmd/distillation/run.py",
        "if is_due or is_stopped:", "if is_due:",
        promise="SIGTERM or SIGUSR1", test="test_a_signal_saves_the_turn_that_it_falls_in",
    ),
    Protection(
        "restarts: the server of a run that has ended logs on", "flows/services/temporary_server.py",
        "    logging.disable()  #", "    #",
        promise="Nothing follows the last line", test="test_the_server_logs_nothing_once_its_run_has_ended",
    ),
    Protection(
        "restarts: a second Ctrl-C is ignored", "dmd/signals.py",
        "if number == signal.SIGINT and self.number == signal.SIGINT:", "if number == 0:",
        promise="A second Ctrl-C", test="test_a_second_interrupt_ends_at_once_and_a_second_sigterm_is_ignored",
    ),
    Protection(
        "restarts: a service whose first process was killed is not found", "flows/services/processes.py",
        'if os.getsid(process.pid) == record["pid"] and', 'if process.pid == record["pid"] and',
        promise="`make down` and `make up`", test="test_down_ends_the_whole_group",
    ),
    Protection(
        "restarts: a file of locks that is cut off stays", "flows/workspace/rwlock.py",
        "            (root / FILE).unlink()\n", "",
        promise="A file of DVC's locks", test="test_a_file_that_is_cut_off_is_removed",
    ),
    Protection(
        "restarts: locks are removed while DVC runs", "flows/workspace/rwlock.py",
        "if holders := find_holders(root):", 'if holders := "":',
        promise="A file of DVC's locks", test="test_a_file_is_kept_while_dvc_runs",
    ),
    Protection(
        "restarts: a dvc.lock that is cut off is removed, though it was committed", "flows/workspace/dvc_lock.py",
        "            write_bytes(file, committed)\n", "            file.unlink()\n",
        promise="A `dvc.lock` that was cut off", test="test_a_lock_that_was_cut_off_is_replaced",
    ),
    Protection(
        "restarts: a dvc.lock is replaced while DVC writes it", "flows/workspace/dvc_lock.py",
        "if holders := find_holders(root):", 'if holders := "":',
        promise="A `dvc.lock` that was cut off", test="test_a_lock_that_is_cut_off_is_kept_while_dvc_runs",
    ),
    Protection(
        "restarts: a line of a journal that is cut off stays", "flows/tuning/journal.py",
        "    os.truncate(journal, len(content) - len(rest))\n", "",
        promise="A journal of a search", test="test_a_line_that_is_cut_off_is_removed",
    ),
    Protection(
        "restarts: a lock of a journal stays", "flows/tuning/journal.py",
        "    if lock.is_symlink():\n        lock.unlink()\n", "",
        promise="A journal of a search", test="test_a_lock_that_was_left_behind_is_removed",
    ),
    Protection(
        "restarts: a damaged line of a journal is passed by", "flows/tuning/journal.py",
        "            json.loads(line)\n", "            line.decode()\n",
        promise="A journal of a search", test="test_a_damaged_line_is_named_and_the_file_kept",
    ),
    Protection(
        "restarts: a worktree that git was making stays", "flows/pipeline/worktrees.py",
        '            git(main, "worktree", "unlock", str(place))  #', "            #",
        promise="A temporary worktree of a process", test="test_an_abandoned_worktree_is_removed",
    ),
    Protection(
        "restarts: the worktree of a process that runs is removed", "flows/pipeline/worktrees.py",
        "        if not _is_at_work(place, owner):\n", "        if owner:\n",
        promise="A temporary worktree of a process", test="test_the_worktree_of_a_process_that_runs_stays",
    ),
    Protection(
        "restarts: the next command goes on with a half-made database", "flows/runtime/database.py",
        "        _remove(copy)\n        copy.touch(mode=0o600)\n", "        copy.touch(mode=0o600)\n",
        promise="A kill while MLflow or Prefect", test="test_a_kill_during_the_creation_leaves_nothing_half_made",
    ),
    Protection(
        "restarts: a database of another version is made anew", "flows/runtime/database.py",
        "if _count(file, tool.content) != 0:", "if not tool.content:",
        promise="A database of another version",
        test="test_a_database_of_another_version_with_content_is_kept_and_named",
    ),
    Protection(
        "restarts: a full disk in the words of the system", "stages/command.py",
        'if getattr(e, "errno", None) == errno.ENOSPC or', "if",
        promise="A full disk gives a one-line error", test="test_a_disk_that_fills_up_is_one_line_and_leaves_nothing",
    ),
    Protection(
        "restarts: a folder that is not whole stays", "dmd/storage/files.py",
        "        tmp.replace(out)\n    finally:\n        shutil.rmtree(tmp, ignore_errors=True)\n",
        "        tmp.replace(out)\n    finally:\n        pass\n",
        promise="A full disk gives a one-line error",
        test="test_a_disk_that_fills_up_is_one_line_and_leaves_nothing[prepare.write_text]",
    ),
    Protection(
        "restarts: a temporary server that is killed stays away", "flows/services/temporary_server.py",
        "            self._keep_alive(self.process, port)\n", "            pass\n",
        promise="A temporary Prefect server that is killed",
        test="test_a_server_that_is_killed_starts_again_on_its_port",
    ),
)  # fmt: skip
