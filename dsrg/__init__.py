"""Image tags to pixel masks by Deep Seeded Region Growing (Huang et al., CVPR 2018).

For notebooks: `dsrg.Predictor`, a trained network ready to predict.
"""


def __getattr__(name: str) -> object:
    """`dsrg.Predictor`, imported when asked for: every stage imports this package, few need the network."""
    if name == "Predictor":
        from importlib import import_module

        return import_module("dsrg.predictor").Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
