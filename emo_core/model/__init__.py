"""The networks, in pure torch: they know no data, no cluster and no noise level.

Legend of the shapes in this folder: B clips, F generated frames, N motion frames, C channels, H W latent picture,
T tokens, D width of a token, L layers of the audio encoder.
"""
