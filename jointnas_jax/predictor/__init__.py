"""The accuracy predictor: Flax modules, pretraining, fitting, scoring."""
