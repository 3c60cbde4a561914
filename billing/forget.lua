-- Forget all there is of one writer: the truth of it is less than this, and comes again. Returns how many epochs there were.
-- KEYS: high-water mark, sealed epochs of the writer. ARGV: what the keys of its cells begin with.
local epochs = redis.call('HKEYS', KEYS[2])
-- The one behind a sealed epoch may be open, and so may be the first.
redis.call('DEL', ARGV[1] .. '1')
for _, epoch in ipairs(epochs) do
    redis.call('DEL', ARGV[1] .. epoch, ARGV[1] .. string.format('%d', tonumber(epoch) + 1))
end
redis.call('DEL', KEYS[2], KEYS[1])
return #epochs
