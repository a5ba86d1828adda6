"""The flags of single modes, beside --config, --mode and --workdir."""

from absl import flags

flags.DEFINE_enum(
    "distributed", "off", ["off", "auto"], "train, predict: 'auto' finds the other processes of a cluster."
)
flags.DEFINE_string("coordinator", None, "train, predict: host:port of process 0, where the cluster is not known ...")
flags.DEFINE_integer("num_processes", None, "... how many processes there are ...")
flags.DEFINE_integer("process_id", None, "... and which of them this one is, from 0.")
flags.DEFINE_string(
    "data_dir", None, "evaluate: where Kaggle's files, or the catalogue's table, are now, if they have moved."
)
flags.DEFINE_bool(
    "other_data",
    False,
    "evaluate: --data_dir holds other galaxies than the run's; their report goes into a folder of its own.",
)
flags.DEFINE_string("input", None, "predict: folder, glob, zip or table of images. mergers, similar: predictions.")
flags.DEFINE_string("hub", None, "export: repository of the Hugging Face hub that the network is sent to, owner/name.")
flags.DEFINE_string("output", None, "predict, mergers, similar, export, compare, benchmark: folder for what is made.")
flags.DEFINE_integer("views", 1, "evaluate, predict: test-time views to average over: 1, 8 or 16.")
flags.register_validator("views", lambda count: count in (1, 8, 16), "--views must be 1, 8 or 16.")
flags.DEFINE_integer("shard_size", 10_000, "predict: images per Parquet file; each is the work of one process.")
flags.DEFINE_list("formats", [], "predict: csv, fits (parquet is always written). export: onnx.")
flags.DEFINE_bool("embeddings", False, "predict: also the network's features after pooling, for --mode=similar.")
flags.DEFINE_float("interval", None, "predict: also the ends of intervals of this level, e.g. 0.9, for each answer.")
flags.DEFINE_list("keep", [], "predict: columns of the table of images that are carried along, e.g. ra,dec.")
flags.DEFINE_list("like", [], "similar: ids of the predictions, or image files (with --workdir).")
flags.DEFINE_integer("count", 20, "similar: neighbours of each, and how many unusual galaxies.", 1)
# What is looked at: a flag that is not given is as in the network's training, an empty one (--sky=) is the usual value.
flags.DEFINE_string("id_column", None, "predict: the table's column of ids ...")
flags.DEFINE_string("file_column", None, "... and of image files.")
flags.DEFINE_list("file_columns", None, "predict: three columns of files, one per band: red,green,blue.")
flags.DEFINE_string("images", None, "predict, evaluate: folder or zip of the table's files, if they are not beside it.")
flags.DEFINE_float("crop", None, "predict: side of the central square to look at, in pixels of the images ...")
flags.DEFINE_float("share", None, "... or as a part of their shorter side ...")
flags.DEFINE_float("field", None, "... or in arcsec, with ...")
flags.DEFINE_string("pixel_scale", None, "... arcsec per pixel of the images: a number, or a column of the table.")
flags.DEFINE_string("planes", None, "predict: planes of FITS cubes shown as red, green, blue; 2,1,0 for g, r, i.")
flags.DEFINE_string("scales", None, "predict: factors of these planes; 0.85,1,1.4 for fluxes in i, r, g.")
flags.DEFINE_string("extension", None, "predict: FITS extension with the image, by name or number ...")
flags.DEFINE_string("extensions", None, "... or three of them, one per band: red,green,blue.")
flags.DEFINE_string("sky", None, "predict: sky level of FITS images, one number or three (red,green,blue) ...")
flags.DEFINE_string("noise", None, "... and the sky's noise, in the same unit: for cutouts that show little sky.")
flags.DEFINE_float("stretch_q", None, "predict: q of the asinh stretch of FITS images ...", 1e-3, 100.0)
flags.DEFINE_float("softening", None, "... and where it turns logarithmic, in units of the noise.", 1e-9, 1e9)
flags.DEFINE_string("validation", None, "mergers: tables of labelled galaxies, if not those of --workdir.")
flags.DEFINE_string("labels", None, "mergers: training_solutions_rev1.csv, for the training labels' own fraction.")
flags.DEFINE_string(
    "answer", None, "mergers: the answer whose fraction is estimated; the one that means a merger unless given."
)
flags.DEFINE_float("threshold", 0.3, "mergers: the vote fraction above which a galaxy is counted.")
flags.DEFINE_list("observability", [], "mergers: observability time and its error in Gyr, for a rate.")
flags.DEFINE_list("peers", [], "benchmark: torch, torch.compile, torch.max-autotune, keras, timed in the same rounds.")
flags.DEFINE_integer("repeats", 7, "benchmark: rounds of timing.")
