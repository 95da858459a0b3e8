"""The values that options choose among."""

SOURCES = (
    "digits", "imagefolder", "cifar100", "flowers102", "food101", "fashionmnist", "webdataset", "parquet", "csv",
)  # fmt: skip
TORCHVISION = "torchvision:"
"""What a source of torchvision's begins with; its class there follows."""
PYTHON = "python"
"""The source of images that a call from Python brings along."""
MODES = ("jpg", "raw", "proportion", "dct")
KINDS = ("jpg", "dct")
IMPORT_FORMATS = ("ml-dr", "fkd")
ON_ERROR = ("stop", "skip")
TASKS = ("erm", "kd", "dr")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
RESIDUALS = ("smooth", "renormalise", "top1", "hard")
SCHEDULERS = ("cosine", "linear", "poly", "tanh", "step", "multistep", "plateau")
TRACKERS = ("tensorboard", "wandb", "trackio")
COMPILE = ("auto", "off", "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
SWITCH = ("auto", "on", "off")
MODEL_FORMATS = ("onnx", "torch", "hub")
CLASSES = ("same", "any")
ORDERS = ("random", "sequential", "quasi_random")
BENCHES = ("loader", "kernels", "files", "epoch", "train", "eval", "doctor", "gpu")
GPU_STAGES = ("set-up", "tests", "steps", "loader", "epochs", "teacher", "evaluation", "health", "profile")
"""What ``ffdr bench gpu`` does."""
