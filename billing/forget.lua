-- Forget all there is of one writer: the truth of it is less than this, and comes again. Returns how many keys
-- besides its cells there were.
-- KEYS: high-water mark, sealed epochs of the writer. ARGV: what the keys of its cells begin with.
local epochs = redis.call('HKEYS', KEYS[2])
-- The one behind a sealed epoch may be open, and so may be the first that is known.
redis.call('DEL', ARGV[1] .. '1', ARGV[1] .. (redis.call('HGET', KEYS[2], 'oldest') or '1'))
for _, epoch in ipairs(epochs) do
    if epoch ~= 'oldest' then
        redis.call('DEL', ARGV[1] .. epoch, ARGV[1] .. string.format('%d', tonumber(epoch) + 1))
    end
end
return redis.call('DEL', KEYS[2], KEYS[1])
