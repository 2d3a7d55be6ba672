"""Section "Memory" of docs/reliability.md."""

from tests.planted.bug import Protection

MEMORY = (
    Protection(
        "memory: all images of a split are in one shard", "dmd/preparation/prepare.py",
        "part.index.split(shard_size)", "part.index.split(max(1, len(part.index)))",
        promise="`data`: ", test="test_many_images_need_little_memory_and_a_killed_preparation_resumes",
    ),
    Protection(
        "memory: all latents are in one shard", "dmd/encoding/encode.py",
        "per_shard = max(1, SHARD_BYTES // row_bytes)", "per_shard = max(1, count)",
        promise="`encode`: ", test="test_latents_are_the_vaes_output_for_every_image_in_order",
    ),
    Protection(
        "memory: pairs are kept until the last one is made", "dmd/teachers/pairs.py",
        "while sum(len(part.z) for part in kept) > size:", "while size < 1:",
        promise="`pairs`: ", test="test_half_a_gigabyte_of_pairs_takes_the_memory_of_a_few_shards",
    ),
    Protection(
        "memory: pairs of any size are read", "dmd/teachers/pairs.py",
        "if z.nbytes + x.nbytes <= MAX_BYTES_IN_MEMORY:", "if MAX_BYTES_IN_MEMORY:",
        promise="`train`: ", test="test_a_large_store_has_shards_and_its_rows_stay_on_disk",
    ),
    Protection(
        "memory: the classifier takes all held-out images at once", "evaluation/models/classifier.py",
        "batches = held_out.images.split(cfg.batch_size)", "batches = [held_out.images]",
        promise="`evaluator`: ", test="test_the_classifier_takes_the_held_out_images_in_batches",
    ),
    Protection(
        "memory: generated images are kept without a bound", "evaluation/features/store.py",
        "if self.bytes <= self.max_bytes:", "if self.max_bytes:",
        promise="`baseline`, `evaluate`: images: ",
        test="test_a_buffer_of_images_takes_time_in_proportion_to_their_number",
    ),
    Protection(
        "memory: all captions are embedded at once", "evaluation/models/clip.py",
        "(distinct[i : i + CAPTIONS_AT_ONCE] for i in range(0, len(distinct), CAPTIONS_AT_ONCE))", "[distinct]",
        promise="the same: captions: ", test="test_captions_are_embedded_in_batches_and_found_without_a_search",
    ),
    Protection(
        "memory: features are copied in float64", "evaluation/statistics/frechet.py",
        "parts, n = features.split(ROWS), len(features)", "parts, n = [features], len(features)",
        promise="the same: features: ", test="test_a_gaussian_is_fitted_without_a_copy_of_all_features",
    ),
    Protection(
        "memory: features are copied to be hashed", "evaluation/metrics/reference.py",
        "digest.update(tensor.contiguous().numpy().data)", "digest.update(tensor.contiguous().numpy().tobytes())",
        promise="the same: features: ", test="test_features_are_hashed_without_a_copy",
    ),
    Protection(
        "memory: blocks of pairs whatever the columns", "evaluation/metrics/pairwise.py",
        "return max(1, min(ROWS, BLOCK // max(len(y), 1)))", "return ROWS",
        promise="the same: pairs of features: ",
        test="test_the_matrix_of_pairs_is_in_memory_in_blocks_of_bounded_size",
    ),
    Protection(
        "memory: pictures of any number of pixels", "evaluation/evaluator/reference.py",
        "min(conditions, MAX_ROWS, MAX_PIXELS // (per_condition * shape[1] * shape[2]))", "min(conditions, MAX_ROWS)",
        promise="the same: pictures: ", test="test_a_picture_has_fewer_rows_of_larger_images",
    ),
    Protection(
        "memory: the page has all pictures of a training", "evaluation/report/sheet.py",
        "for caption in select_training_pictures(list(paths))", "for caption in paths",
        promise="publishing: ", test="test_only_the_pictures_that_the_page_shows_are_read",
    ),
)  # fmt: skip
