"""A talking head made in code with known pose, boxes and mouth: the offline sample and the tests' truth.

photograph -> portrait (its parts) -> look (an identity) -> head (turns and speaks) <- motion, voice -> sample (files)
"""

from emo_data.synthetic.cast import write_trial
from emo_data.synthetic.sample import Clip, render_clip, write_sample
from emo_data.synthetic.voice import synthesise_voice

__all__ = ["Clip", "render_clip", "synthesise_voice", "write_sample", "write_trial"]
