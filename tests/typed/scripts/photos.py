"""The README's first script, with what one reads off its results."""

from typing_extensions import assert_type

from minilearner.vision.all import *

set_seed(42)
dls = ImageDataLoaders.from_folder("photos", valid_pct=0.2, item_tfms=Resize(256), batch_tfms=aug_transforms(size=224))
learn = vision_learner(dls, resnet34, metrics=error_rate, cbs=SaveBest("error_rate"))
learn.lr_find(suggest_funcs=(minimum, valley))
record = learn.fine_tune(3, base_lr=3e-3, checkpoint="runs/photos")
print(record.history["valid_loss"][-1])

interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix(save="confusion.png")
interp.plot_top_losses(9, save="top_losses.png")
for actual, predicted, count in interp.most_confused(min_val=2):
    print(f"{actual} taken for {predicted}: {count}")
interp.print_classification_report()
interp.report("report.html")

learn.export("photos.safetensors")
label, index, probabilities = learn.predict(Path("photos") / "cat" / "1.jpg")
assert_type(label, str)
assert_type(index, torch.Tensor)
assert_type(probabilities, torch.Tensor)
print(label.upper(), float(probabilities[int(index)]))

prediction = learn.predict("cat.jpg")
assert_type(prediction.label, str)
seen, label, index, probabilities = learn.predict("cat.jpg", with_input=True)
assert_type(label, str)

again = load_learner("photos.safetensors")
print(again.predict("cat.jpg").probabilities.max(), plt.figure, pd.DataFrame)

label.uper()  # error expected
ImageDataLoaders.from_folder(42)  # error expected
ImageDataLoaders.from_folder("photos", batch_size=32)  # error expected
ImageDataLoaders.from_csv("photos", label_deim=" ")  # error expected
ImageDataLoaders.from_name_re("photos", [], "(.)", bs="32")  # error expected
learn.fine_tune("3")  # error expected
vision_learner(dls, resnet34, metrix=error_rate)  # error expected
