"""Wrong labels, problems of images, folds, loggers, reports without the model, and predictions of a loaded learner."""

from pathlib import Path

import numpy as np

import minilearner as ml

learn = ml.Learner(ml.fashion_mnist(), ml.MiniGoogLeNet(10), loggers=["csv", ml.JSONLinesLogger("history.jsonl")])
found = ml.ClassificationInterpretation.from_predictions(learn.cross_val_preds(k=3, n_epoch=1)).label_errors()
found.plot(9)
found.to_csv("review.csv")
ml.find_image_problems(learn.dls).to_csv("problems.csv")

cleaner = ml.ImageCleaner(found, most=50)
cleaner.delete(0)
cleaner.to_csv("review.csv")

interp = ml.ClassificationInterpretation.from_learner(learn, ds_idx=1)
matrix: np.ndarray[tuple[int, ...], np.dtype[np.int64]] = interp.confusion_matrix()
losses, indices = interp.top_losses(9)
print(matrix.sum(), losses.max(), indices[0], interp.classification_report().accuracy)
print(interp.calibration().ece, interp.calibration().temperature)

checkup = learn.check(lr=0.01)
for finding in checkup.findings:
    print(finding.severity, finding.check, finding.values)

written: Path = learn.export("model.onnx", format="onnx")
loaded = ml.load_learner("model.safetensors")
for name in Path("new").glob("*.jpg"):
    prediction = loaded.predict(name)
    print(name, prediction.label, f"{prediction.probabilities.max().item():.3f}", prediction.label.upper())
try:
    ml.load_learner("missing.safetensors")
except (ml.FileFormatError, FileNotFoundError) as error:
    print(error)
ml.set_seed(1)

ml.load_learner(b"model")  # error expected
found.to_cvs("review.csv")  # error expected
cleaner.delete("first")  # error expected
