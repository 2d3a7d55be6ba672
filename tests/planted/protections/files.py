"""Section "Untrusted files" of docs/reliability.md."""

from tests.planted.bug import Protection

FILES = (
    Protection(
        "files: any option of a launcher", "dmd/launch.py",
        "if name not in OPTIONS[launcher]:", 'if launcher == "python":',
        promise="No parameter, preset or ablation", test="test_a_launcher_that_could_run_another_program_is_refused",
    ),
    Protection(
        "files: git runs in a shell", "flows/runtime/git.py",
        "done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)",
        'done = subprocess.run(" ".join(words), cwd=root, capture_output=True, text=True, check=False, shell=True)',
        promise="No parameter, preset or ablation", test="test_no_module_starts_a_shell",
    ),
    Protection(
        "files: a parameter in a command of the graph", "dvc.yaml",
        "cmd: python -m stages.data --out artifacts/data",
        "cmd: python -m stages.data --out artifacts/data ${data.source}",
        promise="No parameter, preset or ablation", test="test_no_command_of_the_graph_holds_a_parameter",
    ),
    Protection(
        "files: copyreg makes any object", "dmd/edm/pickles.py",
        "    if not (isinstance(cls, type) and issubclass(cls, Inert)):\n"
        '        raise PickleError("copyreg._reconstructor of an object that is not a module")\n', "",
        promise="A checkpoint of NVlabs", test="test_admitted_names_run_no_code_from_a_pickle",
    ),
    Protection(
        "files: a checkpoint finds every function that it asks for", "dmd/edm/pickles.py",
        'raise PickleError(f"it asks for {full}, which plain weights do not need")',
        "return super().find_class(module, name)",
        promise="A checkpoint of NVlabs", test="test_any_other_global_is_an_error_before_it_runs",
    ),
    Protection(
        "files: a network is not counted as if it were written out", "dmd/edm/pickles.py",
        "if _count(network, {}) > EXPANSION * file.stat().st_size + LEAST_SIZE:", "if network == {}:",
        promise="It cannot fill the memory", test="test_a_network_whose_values_are_named_too_often_is_refused",
    ),
    Protection(
        "files: a key of any type is hashed", "dmd/edm/pickles.py",
        "if not all(isinstance(key, SCALARS) for key in keys):", "if not keys:",
        promise="It cannot fill the memory", test="test_a_key_that_takes_for_ever_to_hash_is_refused",
    ),
    Protection(
        "files: a compressed storage is unpacked", "dmd/edm/pickles.py",
        "> len(content):  # torch compresses nothing", "> 2**40:",
        promise="It cannot fill the memory", test="test_a_storage_that_is_compressed_is_refused",
    ),
    Protection(
        "files: a part of a teacher is of any module", "dmd/families/parts.py",
        "len(entry) == 2 and entry[0] in LIBRARIES", "len(entry) == 2 and isinstance(entry[0], str)",
        promise="Code in the folder of a teacher", test="test_code_in_the_folder_of_a_teacher_does_not_run",
    ),
    Protection(
        "files: a network of torchvision is unpickled", "dmd/features/convolutional.py",
        'map_location="cpu", weights_only=True', 'map_location="cpu", weights_only=False',
        promise="Untrusted weights in a pickle", test="test_a_checkpoint_of_torchvision_with_a_payload_does_not_run",
    ),
    Protection(
        "files: a link that leads out of a shard is an empty file", "dmd/preparation/sources/tar.py",
        'return replace(member, fault=f"a link to {end.target}, which the shard does not hold")', "return member",
        promise="Shards are never unpacked", test="test_what_cannot_be_read_from_a_shard_is_counted",
    ),
    Protection(
        "files: hashes are not compared where they are required", "scripts/setup.sh",
        "        required) ;;", "        required) hashes= ;;",
        promise="A package whose file has another hash", test="test_a_file_whose_hash_is_not_in_the_lock_is_refused",
    ),
    Protection(
        "files: a bill of materials without what is not installed", "flows/supply/sbom.py",
        '"components": [_component(package) for package in packages],',
        '"components": [_component(package) for package in packages if package.licence != NOT_HERE],',
        promise="Licences, a bill of materials", test="test_the_bill_of_materials_names_every_package",
    ),
    Protection(
        "files: an audit without its database is a traceback", "flows/supply/audit.py",
        'if reason := find_silence(DATABASE, "/"):', 'if reason := "":',
        promise="Licences, a bill of materials", test="test_an_audit_that_is_impossible_is_one_line",
    ),
    Protection(
        "files: a classifier is written as a pickle", "evaluation/models/classifier.py",
        'save_file({k: v.cpu().contiguous() for k, v in net.state_dict().items()}, folder / "model.safetensors")',
        'torch.save(net.state_dict(), folder / "model.pt")',
        promise="Nothing that the pipeline writes is a pickle", test="test_no_artifact_is_a_pickle",
    ),
    Protection(
        "files: a registered model is a pickle", "flows/registry/mlflow_model.py",
        "            python_model=str(code),\n",
        "            python_model=type('M', (mlflow.pyfunc.PythonModel,), {'predict': lambda self, c, x: x})(),\n",
        promise="Nothing that the pipeline writes is a pickle", test="test_the_model_holds_no_pickle",
    ),
    Protection(
        "files: errors of the parser of YAML are tracebacks", "dmd/yaml_files.py",
        "except Exception as e:  # a value that does not fit its tag, such as", "except KeyError as e:  # such as",
        promise="Damaged inputs of 17 kinds",
        test="test_no_change_of_a_file_of_parameters_or_measures_is_a_fault",
    ),
    Protection(
        "files: the program that damages inputs takes a damaged result", "benchmarks/fuzzing/limits.py",
        'return FAULT, f"a damaged result: {e}"', 'return VALID, f"a damaged result: {e}"',
        promise="Damaged inputs of 17 kinds", test="test_a_planted_fault_is_recorded",
    ),
    Protection(
        "files: deep JSON is a traceback", "dmd/yaml_files.py",
        "except (ValueError, RecursionError) as e:", "except ValueError as e:",
        promise="Any JSON, and any name", test="test_hostile_json_is_one_line",
    ),
    Protection(
        "files: a name with a zero byte is a traceback", "dmd/yaml_files.py",
        "    except ValueError as e:  # a name with a zero byte\n"
        '        raise error(f"{path} cannot be read: {e}") from None\n', "",
        promise="Any JSON, and any name", test="test_what_is_no_file_is_one_line",
    ),
    Protection(
        "files: YAML of any number of values", "dmd/yaml_files.py",
        "if sum(sizes) > MAX_SIZE:", "if not sizes:",
        promise="A YAML file has at most", test="test_hostile_yaml_is_one_line",
    ),
    Protection(
        "files: JSON of any number of values", "dmd/yaml_files.py",
        "if _count_values(content) > MAX_VALUES and", "if not content and",
        promise="A YAML file has at most", test="test_more_values_than_fit_into_memory_are_one_line",
    ),
    Protection(
        "files: every mistake with its traceback", "dmd/debug.py",
        "if error is None or not os.environ.get(DEBUG):", "if error is None:",
        promise="A mistake in any of these", test="test_a_mistake_is_one_line_and_with_debug_its_traceback_comes_first",
    ),
    Protection(
        "files: a traceback with its passwords", "dmd/debug.py",
        "print(printable(redact(text))", "print(printable(text)",
        promise="A mistake in any of these", test="test_a_mistake_is_one_line_and_with_debug_its_traceback_comes_first",
    ),
    Protection(
        "files: a message of any number of lines", "dmd/errors.py",
        "if len(lines) > MOST_LINES + 1:", "if not lines:",
        promise="A message has at most 51 lines",
        test="test_of_many_mistakes_the_first_are_shown_and_the_others_counted",
    ),
    Protection(
        "files: control characters reach the terminal", "dmd/errors.py",
        "shorten(printable(shorten(line, LONGEST_READ)))", "shorten(shorten(line, LONGEST_READ))",
        promise="A message has lines of at most", test="test_characters_that_a_terminal_obeys_are_escapes",
    ),
    Protection(
        "files: lines of any length", "dmd/errors.py",
        "shorten(printable(shorten(line, LONGEST_READ)))", "printable(shorten(line, LONGEST_READ))",
        promise="A message has lines of at most", test="test_a_long_line_loses_its_middle",
    ),
    Protection(
        "files: a table of captions is a device", "dmd/preparation/sources/table.py",
        '    if not is_file(file):\n        raise DataError(f"data.captions: {file} is not a file',
        "    if not file.name:\n"
        '        raise DataError(f"data.captions: {file} is not a file',
        promise="A line of a text file has at most", test="test_a_table_that_is_no_file_is_not_opened",
    ),
    Protection(
        "files: a schedule of any length", "dmd/families/pipelines.py",
        "steps > MAX_TIMESTEPS:", "steps < 0:",
        promise="A config asks for no more layers",
        test="test_weights_that_are_no_numbers_are_refused_by_file_and_key",
    ),
)  # fmt: skip
