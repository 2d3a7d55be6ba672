"""Sections "NaN and infinite values" and "Trainings that go wrong" of docs/reliability.md."""

from tests.planted.bug import Protection

NUMBERS = (
    Protection(
        "numbers: a fetched teacher is not tried", "dmd/teachers/fetch.py",
        "    probe(teacher, folder, split.images, device)\n", "",
        promise="A teacher that loads but cannot run", test="test_a_teacher_that_loads_but_cannot_run_is_refused",
    ),
    Protection(
        "numbers: NaN and integers among the weights", "dmd/storage/weights.py",
        "_find_fault(folder, net, info) or find_bad_weight(folder, net):", "_find_fault(folder, net, info):",
        promise="A missing, surplus, integer", test="test_weights_that_are_no_numbers_are_refused_by_file_and_key",
    ),
    Protection(
        "numbers: a classifier's weights are not looked at", "evaluation/models/classifier.py",
        "        fault = find_bad_weight(folder, net)\n", '        fault = ""\n',
        promise="A missing, surplus, integer", test="test_an_evaluator_whose_weights_are_no_numbers_is_refused",
    ),
    Protection(
        "numbers: missing and surplus weights are taken", "dmd/storage/weights.py",
        "if fault := _find_fault(folder, net, info) or find_bad_weight", "if fault := find_bad_weight",
        promise="A missing, surplus, integer", test="test_a_generator_to_start_from_is_checked_as_a_teacher_is",
    ),
    Protection(
        "numbers: a pickle counts as weights", "dmd/storage/weights.py",
        'files = list(folder.glob("*.safetensors"))', 'files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]',
        promise="Pickled weights of a teacher", test="test_pickled_weights_are_refused_before_they_are_read",
    ),
    Protection(
        "numbers: pairs with images that are no numbers", "dmd/teachers/pairs.py",
        '    check_finite(x, f"the teacher\'s image of {cfg.solver} in {cfg.steps} steps", ANOTHER)\n', "",
        promise="An image with NaN or infinite values", test="test_pairs_without_images_are_not_written",
    ),
    Protection(
        "numbers: NaN becomes a byte", "dmd/samplers/sampler.py",
        '        check_finite(x, f"sampler {self.name}: an image", "use another number of steps or another network")\n',
        "",
        promise="An image with NaN or infinite values",
        test="test_images_that_are_no_numbers_stop_baseline_and_evaluate",
    ),
    Protection(
        "numbers: figures that are NaN are written", "evaluation/metrics/schema.py",
        "if figure := find_infinite_figure(content):", 'if figure := "":',
        promise="No figure that is NaN or infinite", test="test_a_figure_that_is_no_number_is_named_and_not_written",
    ),
    Protection(
        "trainings: the last generator is exported", "dmd/distillation/run.py",
        "    load_trainable_state(best.denoiser, state.best.weights)\n", "",
        promise="The best generator before is exported",
        test="test_the_generator_that_is_exported_is_the_best_and_not_the_last",
    ),
    Protection(
        "trainings: without a validated generator a run goes on to its export",
        "dmd/distillation/divergence/recovery.py",
        "elif state.best.turn:", "elif state.turn:",
        promise="The best generator before is exported", test="test_without_a_validated_generator_it_is_an_error",
    ),
    Protection(
        "trainings: a run rolls back to a checkpoint of a signal", "dmd/storage/checkpoint.py",
        "files = self.checkpoints(only_periodic=True)", "files = self.checkpoints()",
        promise="A run that rolls back", test="test_it_does_not_roll_back_to_the_checkpoint_of_a_signal",
    ),
    Protection(
        "trainings: roll-backs beyond the bound", "dmd/distillation/divergence/recovery.py",
        "len(events) < self.cfg.divergence.rollbacks", "len(events) < 9",
        promise="It rolls back a bounded number",
        test="test_it_rolls_back_a_bounded_number_of_times_and_to_the_start_if_need_be",
    ),
    Protection(
        "trainings: a report that says nothing", "evaluation/report/outputs.py",
        "return events | hashes", "return hashes",
        promise="The line of the stage", test="test_the_report_says_what_happened",
    ),
    Protection(
        "trainings: the spread is read in every turn", "dmd/distillation/turn_log.py",
        "        self.names.append(loss_name)\n",
        "        self.names.append(loss_name)\n        check_spread(loss_name, spread.item(), self.min_spread)\n",
        promise="No check makes a turn wait", test="test_no_turn_of_any_method_makes_the_host_wait",
    ),
)  # fmt: skip
