"""Rates from a sweep, in every number of functions."""

from typing_extensions import assert_type

from minilearner import Learner, MiniGoogLeNet, accuracy, fashion_mnist, minimum, slide, steep, valley

dls = fashion_mnist()
learn = Learner(dls, MiniGoogLeNet(dls.c), metrics=accuracy, precision="auto")

(lr_valley,) = learn.lr_find()
assert_type(lr_valley, float)
(lr_min,) = learn.lr_find(suggest_funcs=minimum)
lr_min, lr_valley = learn.lr_find(suggest_funcs=(minimum, valley), show_plot=False)
assert_type(lr_min, float)
rates = learn.lr_find(num_it=50, suggest_funcs=(valley, slide, steep, minimum))
first, second, third, fourth = rates
assert_type(fourth, float)
assert_type(rates.valley, float)
assert_type(rates.recommended, float)
print(rates.suggestions["valley"], rates.stop_reason, rates.interval, rates[0] * 2, len(rates))
if rates.bounds is not None:
    base_lr, max_lr = rates.bounds
    print(base_lr / max_lr)
rates.plot(save="sweep.png")
rates.plot_loss_change().savefig("change.png")
rates.to_json("sweep.json")

learn.fit_one_cycle(3, lr_max=lr_min)
learn.fit_one_cycle(3, lr_max=learn.lr_find(suggest_funcs=minimum).minimum)
learn.fit_one_cycle(3, "auto")
learn.recorder.plot_metrics()
learn.recorder.plot_sched()

label, index, probabilities = learn.predict(dls.one_batch()[0][0])
assert_type(label, str)

learn.lr_find(suggest_funcs="valley")  # error expected
rates.valley.upper()  # error expected
learn.fit(1, lr="fast")  # error expected
